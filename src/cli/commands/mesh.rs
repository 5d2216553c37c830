//! The mesh and who belongs to it.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::{Map, Value, json};

use super::console::{ask_unseen, confirm, read_all, show};
use crate::cli::args::{ApproveArgs, InviteArgs, JoinArgs, StayArgs, Tier, UpArgs};
use crate::cli::body::{Body, raw};
use crate::cli::client::{Client, Extras, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Tone, Ui, clean, fields, items, relative, short, table, text};
use crate::cli::up;

/// Longest stay, seconds.
const STAY_MAX_S: u64 = mesh_core::limits::STAY_MS_MAX / 1_000;

pub(super) async fn status(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    let body = client.get("/api/v1/status").await?;
    Ok(show(ui, "sigil.status/1", body, |body| status_text(body, ui)))
}

fn status_text(body: &Value, ui: Ui) -> String {
    let gateway = match body.get("gateway").filter(|gateway| gateway.is_object()) {
        None => ui.paint(Tone::Waiting, "no gateway elected; calls are queued until there is one"),
        Some(gateway) => {
            let who = if gateway.get("self") == Some(&Value::Bool(true)) {
                "this device".to_owned()
            } else {
                name_of(gateway)
            };
            format!("{}, epoch {}", ui.paint(Tone::Strong, &who), epoch(gateway))
        }
    };
    let links = body.get("links").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let links = match links {
        [] => "none; `sigil invite` makes a code for another device".to_owned(),
        links => links.iter().map(link_text).collect::<Vec<_>>().join(", "),
    };
    let none = Value::Null;
    let endpoints = body.get("endpoints").unwrap_or(&none);
    let quic = endpoints.get("quic").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let quic = quic.iter().filter_map(Value::as_str).map(clean).collect::<Vec<_>>().join(", ");
    let mut said = vec![
        ("device", format!("{} ({})", ui.paint(Tone::Strong, &text(body, "node_id")), short(&text(body, "peer_id")))),
        ("words", words(body, "check")),
        ("mesh", short(&text(body, "mesh_id"))),
        ("gateway", gateway),
        ("links", links),
        ("http", up::url(&text(endpoints, "http"))),
        ("socket", text(endpoints, "socket")),
        ("quic", quic),
    ];
    if let Some(relaying) = relaying_text(body) {
        said.insert(5, ("relays", relaying));
    }
    let warnings = body.get("warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    said.extend(warnings.map(|warning| ("warning", ui.paint(Tone::Waiting, &clean(warning)))));
    fields(&said)
}

/// The counter of an epoch, which an agent may also show whole.
pub(in crate::cli) fn epoch(gateway: &Value) -> u64 {
    let epoch = gateway.get("epoch").unwrap_or(&Value::Null);
    epoch.as_u64().or_else(|| epoch.get("counter")?.as_u64()).unwrap_or_default()
}

pub(super) fn name_of(body: &Value) -> String {
    match text(body, "node_id") {
        name if name.is_empty() => short(&text(body, "peer_id")),
        name => name,
    }
}

fn link_text(link: &Value) -> String {
    if let Some(peer) = link.as_str() {
        return short(peer);
    }
    let rtt = link.get("rtt_ms").and_then(Value::as_f64).map(|rtt| format!("{rtt:.1} ms"));
    let said: Vec<String> = rtt.into_iter().chain(way_of(link)).collect();
    if said.is_empty() { name_of(link) } else { format!("{} ({})", name_of(link), said.join(", ")) }
}

/// How a link travels, unless it is direct.
fn way_of(link: &Value) -> Option<String> {
    let relay = || link.get("relayed_by")?.as_array()?.first().map(name_of);
    match text(link, "via").as_str() {
        "tailnet" => Some("over the tailnet".to_owned()),
        _ => relay().map(|relay| format!("by {relay}")),
    }
}

/// All that this device relays for others, if it does for any.
fn relaying_text(body: &Value) -> Option<String> {
    let relaying = body.get("relaying").unwrap_or(&Value::Null);
    let count = |what: &str| relaying.get(what).and_then(Value::as_u64).unwrap_or_default();
    let pairs = count("pairs");
    (pairs > 0).then(|| format!("for {pairs} pairs of devices, {} kB so far", count("bytes") / 1_000))
}

pub(super) async fn invite(client: &Client, args: &InviteArgs, ui: Ui) -> Result<Exit, Failure> {
    let mut body = Map::from_iter([("expires_s".to_owned(), json!(args.expires))]);
    grant(args.tier, &args.stay, &mut body)?;
    if let Some(name) = &args.name {
        body.insert("node_id".into(), json!(name));
    }
    let body = Value::Object(body);
    let invite = client.post("/api/v1/invites", &body).await?;
    if ui.json {
        ui.document("sigil.invite/1", invite);
        return Ok(Exit::Ok);
    }
    let code = text(&invite, "code");
    ui.print(&code);
    for warning in invite.get("warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        ui.say(&format!("warning: {}", clean(warning)));
    }
    if args.qr {
        ui.say(&qr(&code)?);
    }
    let tier = text(&invite, "tier");
    let (tier, stays) = (tier.as_str(), stays(&invite));
    ui.say(&format!(
        "On the other device, run `sigil join` and paste this code.\nIt becomes {}: {}.{stays}{}\nSingle use, expires {}. Keep it secret: whoever has it can join. `sigil invite --void {}` takes it back.",
        article(tier),
        may(tier),
        named(tier, &text(&invite, "node_id")),
        relative(&invite, "expires_at"),
        text(&invite, "id"),
    ));
    Ok(Exit::Ok)
}

/// Writes into a body what it grants: a tier for good, or a stay.
fn grant(tier: Option<Tier>, stay: &StayArgs, body: &mut Map<String, Value>) -> Result<(), Failure> {
    let StayArgs { lasts, only, once } = stay;
    match (tier, lasts) {
        (Some(tier @ (Tier::Owner | Tier::Shared)), Some(_)) => {
            let why = format!("`--for` lets a device in for a while, and {} belongs for good", article(tier.as_str()));
            return Err(Failure::new(Exit::Usage, why).hint("leave one of `--for` and `--tier` out"));
        }
        (Some(tier), None) => drop(body.insert("tier".into(), json!(tier.as_str()))),
        (None, None) => {}
        (_, Some(lasts)) if *lasts > STAY_MAX_S => {
            let why = format!("a device is let in for at most {} days", STAY_MAX_S / (24 * 3_600));
            return Err(Failure::new(Exit::Usage, why).hint(
                "one that is to stay for longer is a shared device: `--tier shared`; `sigil forget` removes it",
            ));
        }
        (_, Some(lasts)) => {
            let mut stay = Map::from_iter([("for_s".to_owned(), json!(lasts)), ("once".to_owned(), json!(once))]);
            if !only.is_empty() {
                stay.insert("tools".into(), json!(only));
            }
            body.insert("stay".into(), Value::Object(stay));
        }
    }
    Ok(())
}

/// Tier of a device in a list, with its end.
fn tier_text(node: &Value) -> String {
    let tier = text(node, "tier");
    match node.get("stay").filter(|stay| stay.is_object()) {
        Some(stay) => {
            let once = if stay.get("once") == Some(&Value::Bool(true)) { ", one call" } else { "" };
            format!("{tier}{once}, ends {}", relative(stay, "until"))
        }
        None => tier,
    }
}

/// How long a device stays and what for, as sentences; empty of one that belongs for good.
fn stays(body: &Value) -> String {
    let Some(stay) = body.get("stay").filter(|stay| stay.is_object()) else { return String::new() };
    let tools = stay.get("tools").and_then(Value::as_array);
    let tools = tools.map(|tools| tools.iter().filter_map(Value::as_str).map(clean).collect::<Vec<_>>().join(", "));
    let what = match (tools, stay.get("once") == Some(&Value::Bool(true))) {
        (Some(tools), true) => {
            format!(" It may make one call, of {tools} where rules give it, and is removed once that is over.")
        }
        (Some(tools), false) => format!(" It may ask for {tools} alone, where rules give it."),
        (None, true) => " It may make one call, and is removed once that is over.".to_owned(),
        (None, false) => String::new(),
    };
    match stay.get("for_s").and_then(Value::as_u64) {
        Some(seconds) => {
            let lasts = crate::config::value::show_duration(std::time::Duration::from_secs(seconds));
            format!("\nIt is removed by itself {lasts} after it has joined.{what}")
        }
        None => format!("\nIt is removed by itself {}.{what}", relative(stay, "until")),
    }
}

/// The name by which it and its rights go, as a sentence.
fn named(tier: &str, name: &str) -> String {
    match (name, tier) {
        ("", "owner") => String::new(),
        ("", _) => "\nIt names itself, so no rule gives it anything by its name until an owner confirms that: `sigil rename NODE \
                    NAME` (`--name NAME` gives it one now)."
            .to_owned(),
        (name, _) => format!("\nIt is called `{name}`, by all members and all rules."),
    }
}

/// A device of this tier, as a noun.
fn article(tier: &str) -> String {
    if tier == "ephemeral" {
        return "an ephemeral device".to_owned();
    }
    let article = if tier == "owner" { "an" } else { "a" };
    format!("{article} {} device", clean(tier))
}

/// Rights of a device of this tier.
fn may(tier: &str) -> &'static str {
    match tier {
        "owner" => {
            "it may call every tool, let devices in and remove them, and be gateway (`--tier shared`: none of that)"
        }
        "ephemeral" => "it may call what rights give it, and neither let devices in nor be gateway",
        _ => {
            "it may call `device.info` only, and neither let devices in nor be gateway (`--tier owner`: all of that); of calls it reads those that it made or that are for it"
        }
    }
}

pub(super) async fn invites(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    let body = client.get("/api/v1/invites").await?;
    Ok(show(ui, "sigil.invites/1", body, |body| match items(body) {
        [] => "This device made no code within the last hour that is still good. `sigil invite` makes one.".to_owned(),
        items => {
            let rows: Vec<_> = items
                .iter()
                .map(|item| {
                    vec![
                        text(item, "id"),
                        ui.state(&text(item, "state")),
                        text(item, "tier"),
                        text(item, "node_id"),
                        relative(item, "created_at"),
                        relative(item, "expires_at"),
                        item.get("used_by").map(name_of).unwrap_or_default(),
                    ]
                })
                .collect();
            let list = table(&["ID", "STATE", "TIER", "NAME", "MADE", "EXPIRES", "LET IN"], &rows);
            format!("{list}\n\n`sigil invite --void ID` takes an open one back. Other devices list their own.")
        }
    }))
}

pub(super) async fn void_invite(client: &Client, id: &str, ui: Ui) -> Result<Exit, Failure> {
    let path = format!("/api/v1/invites/{}", segment(id));
    let answer = client.ask(Method::DELETE, &path, Extras::default()).await?.json()?;
    Ok(show(ui, "sigil.invite/1", answer, |_| format!("The code {} lets nobody in any more.", clean(id))))
}

fn qr(code: &str) -> Result<String, Failure> {
    let qr = qrcode::QrCode::new(code.as_bytes())
        .map_err(|error| Failure::new(Exit::Failed, format!("the code does not fit into a QR code: {error}")))?;
    Ok(qr.render::<qrcode::render::unicode::Dense1x2>().build())
}

pub(super) async fn join(client: &Client, args: JoinArgs, ui: Ui) -> Result<Exit, Failure> {
    let mut body = Map::new();
    match (args.code, args.nearby, args.address) {
        (None, Some(name), _) => {
            // No name = the only one there is.
            body.insert("nearby".into(), json!(Some(name).filter(|name| !name.is_empty())));
        }
        (None, None, Some(address)) => {
            body.insert("address".into(), json!(address));
        }
        (code, ..) => {
            let code = match code.as_deref() {
                Some("-") => read_all("standard input", std::io::stdin())?,
                Some(code) => code.to_owned(),
                None => ask_unseen(ui, "Code of `sigil invite` (it is not shown):").await.unwrap_or_else(|| {
                    Err(Failure::new(Exit::Usage, "nobody said whom to join")
                        .hint("`sigil join -` reads a code from standard input; see also `sigil join --nearby`"))
                })?,
            };
            body.insert("code".into(), json!(code.trim()));
        }
    }
    body.insert("force".into(), json!(args.force));
    if let Some(words) = args.yes {
        body.insert("words".into(), json!(words));
    }
    if client.agent_pid().await.is_some() {
        if let Some(name) = &args.name {
            // It asks for the name that it has.
            client.post("/api/v1/rename", &json!({ "node_id": name })).await?;
        }
    } else {
        ui.say(&format!("No agent is running for {}: starting one.", client.home().display()));
        let up = UpArgs {
            name: args.name,
            detach: true,
            quic_port: None,
            http_port: None,
            own_session: false,
            with_parent: false,
        };
        let pid = up::start(client, &up, ui).await?;
        ui.say(&format!("Started (pid {pid}); `sigil down` stops it."));
    }
    let answer = loop {
        ui.progress("joining…");
        let answer = ask_join(client, &body).await;
        ui.progress("");
        let failure = match answer {
            Ok(answer) => break answer,
            Err(failure) => failure,
        };
        match failure.code() {
            "would_leave" if !args.force && body.get("force") == Some(&json!(false)) => {
                let question = format!("{}. Leave it and join the other one?", clean(&failure.detail));
                if confirm(ui, &question) != Some(true) {
                    return Err(failure);
                }
                body.insert("force".into(), json!(true));
            }
            "confirm_peer" if !body.contains_key("words") => {
                let problem = failure.problem.clone().unwrap_or_default();
                let theirs = words(&problem, "check");
                ui.say(&format!(
                    "This would join {}, and its owner would decide what happens here.\n  its check words      {theirs}\n  this device's own    {}\n`sigil status` there shows the first, and `sigil pending` there the second once it is asked.",
                    name_of(&json!({ "node_id": problem.get("name"), "peer_id": problem.get("peer_id") })),
                    words(&problem, "own_check"),
                ));
                match confirm(ui, "Does that device show these words?") {
                    Some(true) => body.insert("words".into(), json!(theirs)),
                    Some(false) => {
                        return Err(Failure::new(Exit::Denied, "nobody was asked, and nothing has changed"));
                    }
                    None => return Err(failure),
                };
            }
            _ => return Err(failure),
        }
    };
    Ok(show(ui, "sigil.join/1", answer, |answer| {
        if text(answer, "state") == "pending" {
            format!(
                "Asked {} ({}). A person there must approve: there, `sigil pending` shows this device, `sigil approve` admits it as a shared device, or `--tier owner`.\nCompare first: the check words shown there must be {}.",
                name_of(answer),
                words(answer, "check"),
                words(answer, "own_check"),
            )
        } else {
            let tier = text(answer, "tier");
            let as_what =
                if tier.is_empty() { String::new() } else { format!(", {}: {}", article(&tier), may_here(&tier)) };
            format!("Joined as {}{as_what}. `sigil nodes` lists the mesh.", text(answer, "node_id"))
        }
    }))
}

/// Tier of this device in the mesh that it has joined.
fn may_here(tier: &str) -> &'static str {
    match tier {
        "owner" => "it may call every tool, let devices in and remove them, and be gateway",
        "ephemeral" => "it may call what rules give it, until it is removed by itself; `sigil nodes` shows when",
        _ => "it may call `device.info` only; an owner changes that with `sigil approve NAME --tier owner`",
    }
}

/// Check words of a field, as people read them.
pub(super) fn words(body: &Value, field: &str) -> String {
    let words = body.get(field).and_then(|check| check.get("words")).and_then(Value::as_array);
    let words: Vec<_> = words.into_iter().flatten().filter_map(Value::as_str).map(clean).collect();
    words.join(" ")
}

async fn ask_join(client: &Client, body: &Map<String, Value>) -> Result<Body, Failure> {
    let body = Value::Object(body.clone()).to_string();
    // All addresses of a code are tried before the agent says that nobody is there.
    let extras = Extras { body: Some(body), within: Some(std::time::Duration::from_mins(1)), ..Extras::default() };
    client.ask(Method::POST, "/api/v1/join", extras).await?.json()
}

pub(super) async fn leave(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    let answer = client.post("/api/v1/leave", &json!({})).await?;
    Ok(show(ui, "sigil.leave/1", answer, |_| "Left. This device is a mesh of one again.".to_owned()))
}

pub(super) async fn nearby(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    let body = client.get("/api/v1/nearby").await?;
    Ok(show(ui, "sigil.nearby/1", body, |body| {
        match items(body) {
        [] => "No other device is nearby. On the other device, run `sigil up`; across networks, use `sigil invite`.\nOn a network that is new to one of them, a device shows itself to members only, unless its sigil.toml says `discovery.lan = true`."
            .to_owned(),
        items => {
            let rows: Vec<_> = items
                .iter()
                .map(|item| {
                    vec![
                        text(item, "name"),
                        words(item, "check"),
                        first(item, "addresses"),
                        relative(item, "last_seen"),
                    ]
                })
                .collect();
            format!(
                "{}\n\nThese names are not proven: `sigil status` on a device shows its check words. Join one with `sigil join --nearby NAME`.",
                table(&["NAME", "CHECK WORDS", "ADDRESS", "SEEN"], &rows)
            )
        }
    }
    }))
}

fn first(body: &Value, name: &str) -> String {
    let first = body.get(name).and_then(|list| list.get(0)).and_then(Value::as_str);
    first.map(clean).unwrap_or_default()
}

pub(super) async fn approve(client: &Client, args: &ApproveArgs, ui: Ui) -> Result<Exit, Failure> {
    let mut body = Map::new();
    grant(args.tier, &args.stay, &mut body)?;
    if let Some(name) = &args.name {
        body.insert("node_id".into(), json!(name));
    }
    if let Some(words) = &args.yes {
        body.insert("words".into(), json!(words));
    } else if let Some(compared) = compare(client, &args.id, ui).await? {
        body.insert("words".into(), json!(compared));
    }
    let (id, body) = (segment(&args.id), Value::Object(body));
    let mut rights = Vec::new();
    let answer = match client.post(&format!("/api/v1/pending/{id}/approve"), &body).await {
        // A device that belongs to the mesh already can be given another tier.
        Err(failure) if failure.code() == "unknown_pending" && (args.tier.is_some() || args.stay.lasts.is_some()) => {
            let answer = client.post(&format!("/api/v1/nodes/{id}/approve"), &body).await?;
            if text(&answer, "tier") != "owner" {
                let said = client.get(&format!("/api/v1/nodes/{id}/rights")).await?;
                let its =
                    |said: &&Value| said.get("by").is_some_and(|by| text(by, "peer_id") == text(&answer, "peer_id"));
                rights = items(&said).iter().filter(its).cloned().collect();
            }
            answer
        }
        other => other?,
    };
    Ok(show(ui, "sigil.approve/1", answer, |answer| {
        let tier = text(answer, "tier");
        let mut told = format!(
            "Approved: `{}` ({}) is {}: {}.{}",
            text(answer, "node_id"),
            words(answer, "check"),
            article(&tier),
            may(&tier),
            stays(answer)
        );
        if !rights.is_empty() {
            let _ = write!(told, "\nRights that were said there hold on; what is not meant can be changed:\n");
            told.push_str(&rights_text(&rights));
        }
        told
    }))
}

/// Shows the check words of a device that awaits approval and asks the person at the terminal to compare them. Returns
/// them then; `None` when there is nobody to ask, or nothing to compare.
async fn compare(client: &Client, id: &str, ui: Ui) -> Result<Option<String>, Failure> {
    let pending = match client.get(&format!("/api/v1/nodes/{}", segment(id))).await {
        Ok(node) if text(&node, "state") == "pending" => node,
        // A member, or one that approving says more of.
        Ok(_) | Err(_) => return Ok(None),
    };
    let shown = words(&pending, "check");
    match confirm(ui, &format!("`{}` must show the check words {shown}. Does it?", text(&pending, "node_id"))) {
        Some(true) => Ok(Some(shown)),
        Some(false) => Err(Failure::new(Exit::Denied, "it is not approved, and still waits")
            .hint(format!("`sigil reject {}` sends it away", short(&text(&pending, "peer_id"))))),
        None => Ok(None),
    }
}

pub(super) async fn reject(client: &Client, id: &str, ui: Ui) -> Result<Exit, Failure> {
    let answer = client.post(&format!("/api/v1/pending/{}/reject", segment(id)), &json!({})).await?;
    Ok(show(ui, "sigil.reject/1", answer, |_| format!("Rejected: {}.", clean(id))))
}

pub(super) async fn forget(
    client: &Client,
    node: &str,
    (with_their_guests, with_their_rights): (bool, bool),
    ui: Ui,
) -> Result<Exit, Failure> {
    let path = format!("/api/v1/nodes/{}", segment(node));
    let list = client.get(&format!("{path}/guests")).await?;
    let guests = items(&list);
    let names: Vec<_> = guests.iter().map(|guest| text(guest, "node_id")).collect();
    let mut with_guests = with_their_guests;
    if !guests.is_empty() && !with_guests {
        ui.say(&format!("{} let in, or its guests did:\n{}", clean(node), guests_text(guests)));
        with_guests = confirm(ui, "They stay members otherwise. Forget them too?") == Some(true);
    }
    // Of guests that stay nothing is taken back.
    let ids: Vec<_> = guests.iter().map(|guest| text(guest, "peer_id")).collect();
    let stays = |said: &Value| !with_guests && said.get("by").is_some_and(|by| ids.contains(&text(by, "peer_id")));
    let rights = client.get(&format!("{path}/rights")).await?;
    let rights: Vec<Value> = items(&rights).iter().filter(|said| !stays(said)).cloned().collect();
    let mut with_rights = with_their_rights;
    if !rights.is_empty() && !with_rights {
        ui.say(&format!("Rights that hold by its word:\n{}", rights_text(&rights)));
        let asked = "They hold on otherwise. Take them back, so that what they replaced holds again?";
        with_rights = confirm(ui, asked) == Some(true);
    }
    let path = format!("{path}?with_guests={with_guests}&with_rights={with_rights}");
    // There may be thousands.
    let extras = Extras { within: Some(std::time::Duration::from_mins(5)), ..Extras::default() };
    let mut answer = client.ask(Method::DELETE, &path, extras).await?.json()?;
    answer.set(if with_guests { "guests_forgotten" } else { "guests_left" }, raw(&guests));
    answer.set(if with_rights { "rights_taken_back" } else { "rights_left" }, raw(&rights));
    Ok(show(ui, "sigil.forget/1", answer, |_| {
        let mut told =
            format!("{} is no longer a member of the mesh; calls that were queued for it have ended.", clean(node));
        let names = names.join(", ");
        match (guests.is_empty(), with_guests) {
            (true, _) => {}
            (false, true) => {
                let _ = write!(told, "\nSo are the devices that it let in: {names}.");
            }
            (false, false) => {
                let left = "The devices that it let in are members still";
                let _ = write!(told, "\n{left}: {names}. `sigil forget` removes each.");
            }
        }
        match (rights.len(), with_rights) {
            (0, _) => {}
            (count, true) => {
                let _ = write!(told, "\nWhat was said there about rights ({count}) holds no more.");
            }
            (count, false) => {
                let _ = write!(
                    told,
                    "\nWhat was said there about rights ({count}) holds on. `sigil policy show` shows what holds, and what \
                     is not meant can be changed."
                );
            }
        }
        told
    }))
}

fn rights_text(rights: &[Value]) -> String {
    let row = |said: &Value| {
        let gone = said.get("taken_away") == Some(&Value::Bool(true));
        let by = said.get("by").map(name_of).unwrap_or_default();
        let what = if gone { "taken away" } else { "set" };
        vec![text(said, "at"), what.to_owned(), by, text(said, "principal"), relative(said, "since")]
    };
    table(&["RIGHT", "WAS", "AT", "BY", "SINCE"], &rights.iter().map(row).collect::<Vec<_>>())
}

fn guests_text(guests: &[Value]) -> String {
    let row = |guest: &Value| {
        let by = guest.get("approved_by").map(name_of).unwrap_or_default();
        vec![text(guest, "node_id"), text(guest, "tier"), by, relative(guest, "since")]
    };
    table(&["NODE", "TIER", "LET IN BY", "SINCE"], &guests.iter().map(row).collect::<Vec<_>>())
}

pub(super) async fn nodes(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    let body = client.get("/api/v1/nodes").await?;
    // How they are linked is the state of this device, not of theirs.
    let status = if ui.json { None } else { Some(client.get("/api/v1/status").await?) };
    let links = status.as_ref().and_then(|status| status.get("links")?.as_array().cloned()).unwrap_or_default();
    Ok(show(ui, "sigil.nodes/1", body, |body| nodes_text(body, &links, ui)))
}

fn nodes_text(body: &Value, links: &[Value], ui: Ui) -> String {
    let via = |node: &Value| {
        let peer = node.get("peer_id");
        let link = links.iter().find(|link| peer.is_some() && link.get("peer_id") == peer);
        link.map_or_else(String::new, |link| way_of(link).unwrap_or_else(|| "direct".to_owned()))
    };
    // Where every link is direct, there is nothing to tell.
    let tells_via = links.iter().any(|link| way_of(link).is_some());
    let rows: Vec<_> = items(body)
        .iter()
        .map(|node| {
            let mut name = text(node, "node_id");
            if node.get("state").and_then(Value::as_str) != Some("pending") {
                let asks = text(node, "asks");
                if !asks.is_empty() {
                    let _ = write!(name, " (asks to be `{asks}`)");
                } else if node.get("confirmed") == Some(&Value::Bool(false)) {
                    name.push_str(" (named itself)");
                }
            }
            let leads = node.get("gateway") == Some(&Value::Bool(true));
            let mut row = vec![
                if leads { format!("{name} {}", ui.paint(Tone::Strong, "(gateway)")) } else { name },
                ui.state(&text(node, "state")),
                tier_text(node),
                node.get("approved_by").filter(|by| by.is_object()).map(name_of).unwrap_or_default(),
                text(node, "platform"),
                node.get("tools").and_then(Value::as_array).map_or(0, Vec::len).to_string(),
                relative(node, "last_seen"),
                text(node, "why"),
            ];
            if tells_via {
                row.insert(2, via(node));
            }
            row
        })
        .collect();
    let mut head = vec!["NODE", "STATE", "TIER", "LET IN BY", "PLATFORM", "TOOLS", "SEEN", "WHY"];
    if tells_via {
        head.insert(2, "VIA");
    }
    let list = table(&head, &rows);
    match rows.len() {
        0 => "No devices. Make a code with `sigil invite`, and use it on another device.".to_owned(),
        1 => {
            format!("{list}\n\nOnly this device so far. Make a code with `sigil invite`, and use it on another device.")
        }
        _ => list,
    }
}

pub(super) async fn node(client: &Client, id: &str, ui: Ui) -> Result<Exit, Failure> {
    let body = client.get(&format!("/api/v1/nodes/{}", segment(id))).await?;
    Ok(show(ui, "sigil.node/1", body, |node| {
        let head = fields(&[
            ("node", ui.paint(Tone::Strong, &text(node, "node_id"))),
            ("peer", text(node, "peer_id")),
            ("state", ui.state(&text(node, "state"))),
            ("why", text(node, "why")),
            ("words", words(node, "check")),
            ("rules", known_as(node)),
            ("tier", tier_text(node)),
            ("stay", stays(node).trim_start().to_owned()),
            ("let in by", let_in(node)),
            ("platform", text(node, "platform")),
            ("gateway", text(node, "gateway")),
            ("seen", relative(node, "last_seen")),
        ]);
        let tools = node.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let rows: Vec<_> =
            tools.iter().map(|tool| vec![tool_name(tool), text(tool, "effect"), text(tool, "description")]).collect();
        if rows.is_empty() {
            format!("{head}\n\nIt offers no tools.")
        } else {
            format!("{head}\n\n{}", table(&["TOOL", "EFFECT", "DESCRIPTION"], &rows))
        }
    }))
}

/// The name by which rules know a device, and what an owner types to give it another.
fn known_as(node: &Value) -> String {
    let (name, asks) = (text(node, "node_id"), text(node, "asks"));
    if node.get("state").and_then(Value::as_str) == Some("pending") {
        return format!("would know it as `{name}`, unless `sigil approve` gives it another `--name`");
    }
    if node.get("confirmed") == Some(&Value::Bool(false)) {
        return format!(
            "know it by no name, since it named itself; on an owner's device: `sigil rename {name} {name}`, or another name"
        );
    }
    match asks.as_str() {
        "" => format!("know it as `{name}`"),
        asks => format!("know it as `{name}`; it asks for `{asks}`: `sigil rename {name} {asks}` on an owner's device"),
    }
}

/// By whose word a device belongs, and since when.
fn let_in(node: &Value) -> String {
    match node.get("approved_by").filter(|by| by.is_object()) {
        Some(by) => format!("{}, {}", name_of(by), relative(node, "approved_at")),
        None => String::new(),
    }
}

/// A tool in a list is an object with a name, or the bare name.
fn tool_name(tool: &Value) -> String {
    tool.as_str().map_or_else(|| text(tool, "name"), clean)
}

pub(super) async fn tools(client: &Client, node: Option<&str>, ui: Ui) -> Result<Exit, Failure> {
    let query = node.map(|node| format!("?node={}", segment(node))).unwrap_or_default();
    let body = client.get(&format!("/api/v1/tools{query}")).await?;
    Ok(show(ui, "sigil.tools/1", body, |body| {
        let rows: Vec<_> = items(body)
            .iter()
            .map(|tool| {
                vec![
                    text(tool, "node"),
                    tool_name(tool),
                    text(tool, "effect"),
                    available(tool),
                    text(tool, "description"),
                ]
            })
            .collect();
        if rows.is_empty() {
            return "No tools here. `sigil nodes` lists the devices; command tools are declared in sigil.toml."
                .to_owned();
        }
        format!(
            "{}\n\nCall one with `sigil call NODE TOOL`.",
            table(&["NODE", "TOOL", "EFFECT", "STATE", "DESCRIPTION"], &rows)
        )
    }))
}

fn available(tool: &Value) -> String {
    match text(tool, "why") {
        _ if tool.get("available") == Some(&Value::Bool(true)) => "available".to_owned(),
        why => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_names_the_gateway() {
        let body = json!({
            "peer_id": "abcdefghijkl", "node_id": "attic", "mesh_id": "mmmmmmmmmm",
            "check": {"words": ["amber", "canoe", "lilac", "orbit"], "short": "abcdefg"},
            "gateway": {"peer_id": "zyxwvutsrq", "node_id": "study", "epoch": 4, "self": false},
            "links": [{"node_id": "study", "peer_id": "zyxwvutsrq", "rtt_ms": 1.234}],
            "endpoints": {"socket": "/h/run/sigil.sock", "http": "127.0.0.1:7434", "quic": ["[::]:7433"]}
        });
        assert_eq!(
            status_text(&body, Ui::plain(false)),
            "device   attic (abcdefg)\nwords    amber canoe lilac orbit\nmesh     mmmmmmm\ngateway  study, epoch 4\nlinks    study (1.2 ms)\nhttp     http://127.0.0.1:7434\nsocket   /h/run/sigil.sock\nquic     [::]:7433"
        );
    }

    #[test]
    fn without_a_gateway_it_says_so() {
        let said = status_text(&json!({"gateway": null, "links": []}), Ui::plain(false));
        assert!(said.contains("no gateway elected") && said.contains("sigil invite"), "{said}");
    }

    #[test]
    fn whatever_is_wrong_is_in_the_status() {
        let body =
            json!({"gateway": null, "links": [], "warnings": ["the disk is full; make room", "nobody is an owner"]});
        let said = status_text(&body, Ui::plain(false));
        assert!(said.contains("warning  the disk is full; make room\nwarning  nobody is an owner"), "{said}");
    }

    #[test]
    fn an_epoch_may_be_a_number_or_whole() {
        assert_eq!(epoch(&json!({"epoch": 3})), 3);
        assert_eq!(epoch(&json!({"epoch": {"counter": 5}})), 5);
        assert_eq!(epoch(&json!({})), 0);
    }

    #[test]
    fn a_mesh_of_one_is_told_the_next_step() {
        let one = json!({"node_id": "attic", "state": "online", "tier": "owner", "platform": "linux", "gateway": true, "tools": [{}, {}]});
        let said = nodes_text(&json!({"items": [one]}), &[], Ui::plain(false));
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("NODE             STATE   TIER   LET IN BY  PLATFORM  TOOLS  SEEN  WHY"));
        assert_eq!(lines.next(), Some("attic (gateway)  online  owner             linux     2"));
        assert!(said.contains("sigil invite"));
    }

    #[test]
    fn a_qr_code_can_be_shown() {
        assert!(qr("sigil1-abcdefghijklmnop").is_ok_and(|code| code.lines().count() > 10));
        assert!(qr(&"x".repeat(5000)).is_err());
    }
}
