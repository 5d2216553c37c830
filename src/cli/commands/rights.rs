//! Rights: people, workspaces, rules; who may use what, and why.
//!
//! Each edit reads what is there, changes it, and puts it back, provided that nobody else has edited it meanwhile.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::{Map, Value, json};

use super::conflicts;
use super::console::{read_all, show};
use crate::cli::args::{
    AskArgs, MemberArgs, PersonCommand, PersonSet, PolicyCommand, RuleArgs, RuleCommand, WorkspaceCommand, WorkspaceSet,
};
use crate::cli::body::Body;
use crate::cli::client::{Client, Extras, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Tone, Ui, clean, clean_lines, fields, items, table, text};
use crate::doors::ops::policy::{TEMPLATES, template};

const POLICY: &str = "/api/v1/policy";
const PEOPLE: &str = "/api/v1/people";
const WORKSPACES: &str = "/api/v1/workspaces";

/// The way to a part of rights, by what names it.
fn person_path(id: &str) -> String {
    format!("{PEOPLE}/{}", segment(id))
}

fn workspace_path(id: &str) -> String {
    format!("{WORKSPACES}/{}", segment(id))
}

fn rules_path(workspace: &str) -> String {
    format!("{POLICY}/rules?workspace={}", segment(workspace))
}

/// A part as it is, with its state; `None`: it is not there.
async fn read(client: &Client, path: &str) -> Result<Option<(Value, Option<String>)>, Failure> {
    match client.ask(Method::GET, path, Extras::default()).await {
        Ok(answer) => Ok(Some((answer.json()?.into_value(), answer.etag))),
        Err(failure) if matches!(failure.code(), "unknown_person" | "unknown_workspace") => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn there(client: &Client, path: &str) -> Result<(Value, Option<String>), Failure> {
    let answer = client.ask(Method::GET, path, Extras::default()).await?;
    Ok((answer.json()?.into_value(), answer.etag))
}

/// Puts a part back, and tells what was done.
async fn put(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
    etag: Option<&str>,
    told: &str,
    ui: Ui,
) -> Result<Exit, Failure> {
    let headers: Vec<(&str, &str)> = etag.iter().map(|etag| ("if-match", *etag)).collect();
    let extras = Extras { body: body.map(ToString::to_string), headers: &headers, within: None };
    let answer = client.ask(method, path, extras).await?.json()?;
    for warning in answer.get("warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        ui.say(&format!("warning: {}", clean(warning)));
    }
    let nothing = answer.get("written") == Some(&json!(0));
    Ok(show(ui, "sigil.edited/1", answer, |_| if nothing { "It was so already.".to_owned() } else { told.to_owned() }))
}

fn members_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("it was made an object")
        }
    }
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value.get(name).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(clean).collect()
}

fn listed(value: &Value, name: &str, all: &str, none: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => all.to_owned(),
        Some(_) => match texts(value, name) {
            items if items.is_empty() => none.to_owned(),
            items => items.join(", "),
        },
    }
}

// --- People -----------------------------------------------------------------------------------------------------------

pub(super) async fn person(client: &Client, command: PersonCommand, ui: Ui) -> Result<Exit, Failure> {
    match command {
        PersonCommand::List => {
            let body = client.get(PEOPLE).await?;
            Ok(show(ui, "sigil.people/1", body, |body| people_text(body, ui)))
        }
        PersonCommand::Add(set) => {
            let path = person_path(&set.id);
            if read(client, &path).await?.is_some() {
                return Err(Failure::new(Exit::Conflict, format!("there is a person `{}` already", clean(&set.id)))
                    .hint(format!("`sigil person set {}` changes what is said of her", clean(&set.id))));
            }
            set_person(client, set, json!({}), None, ui).await
        }
        PersonCommand::Set(set) => {
            let (said, etag) = there(client, &person_path(&set.id)).await?;
            set_person(client, set, said, etag, ui).await
        }
        PersonCommand::Login { id, login, remove } => {
            let path = format!("{}/logins/{}", person_path(&id), segment(&login));
            let (method, told) = if remove {
                (Method::DELETE, format!("The login {} is {}'s no more.", clean(&login), clean(&id)))
            } else {
                let door = "at devices with `tailnet.door = true`";
                (
                    Method::PUT,
                    format!(
                        "Whoever has the login {} in the tailnet comes in as {} {door}.",
                        clean(&login),
                        clean(&id)
                    ),
                )
            };
            put(client, method, &path, None, None, &told, ui).await
        }
        PersonCommand::Remove { id } => {
            let (_, etag) = there(client, &person_path(&id)).await?;
            let told = format!("Nothing is asked for {} any more.", clean(&id));
            put(client, Method::DELETE, &person_path(&id), None, etag.as_deref(), &told, ui).await
        }
    }
}

async fn set_person(
    client: &Client,
    set: PersonSet,
    mut said: Value,
    etag: Option<String>,
    ui: Ui,
) -> Result<Exit, Failure> {
    let PersonSet { id, name, role, device, not_device, suspend, resume } = set;
    let mut devices = texts(&said, "devices");
    devices.retain(|known| !not_device.contains(known));
    devices.extend(device.into_iter().filter(|new| !not_device.contains(new)));
    devices.sort();
    devices.dedup();
    let members = members_of(&mut said);
    members.insert("devices".to_owned(), json!(devices));
    if let Some(name) = name {
        members.insert("name".to_owned(), json!(name));
    }
    if let Some(role) = role {
        members.insert("role".to_owned(), json!(role.as_str()));
    }
    if suspend || resume {
        members.insert("suspended".to_owned(), json!(suspend));
    }
    let told = if suspend {
        format!("Nothing may be asked for {id} now; `sigil person set {id} --resume` ends that.", id = clean(&id))
    } else if devices.is_empty() {
        format!(
            "Done. Devices of tier owner speak for {id} as for everybody. `sigil person set {id} --device NAME` gives {id} a device: who sits there asks and answers as {id}.",
            id = clean(&id)
        )
    } else {
        format!(
            "Done. Who sits at {} asks and answers as {}, and devices of tier owner speak for everybody.",
            devices.join(", "),
            clean(&id)
        )
    };
    put(client, Method::PUT, &person_path(&id), Some(&said), etag.as_deref(), &told, ui).await
}

fn people_text(body: &Value, ui: Ui) -> String {
    let rows: Vec<_> = items(body)
        .iter()
        .map(|person| {
            let suspended = person.get("suspended") == Some(&Value::Bool(true));
            let state = if suspended { ui.paint(Tone::Bad, "suspended") } else { String::new() };
            vec![
                text(person, "id"),
                text(person, "name"),
                text(person, "role"),
                texts(person, "devices").join(", "),
                state,
            ]
        })
        .collect();
    if rows.is_empty() {
        return "Nobody was named yet: whoever sits at a device of tier owner is `owner`.\n`sigil person add mia --name Mia` adds somebody; `sigil policy template family` shows a whole to begin with.".to_owned();
    }
    table(&["ID", "NAME", "ROLE", "DEVICES", ""], &rows)
}

// --- Workspaces -------------------------------------------------------------------------------------------------------

pub(super) async fn workspace(client: &Client, command: WorkspaceCommand, ui: Ui) -> Result<Exit, Failure> {
    match command {
        WorkspaceCommand::List { id: None } => {
            let body = client.get(WORKSPACES).await?;
            Ok(show(ui, "sigil.workspaces/1", body, workspaces_text))
        }
        WorkspaceCommand::List { id: Some(id) } => {
            let body = client.get(&workspace_path(&id)).await?;
            Ok(show(ui, "sigil.workspace/1", body, |body| workspace_text(&id, body)))
        }
        WorkspaceCommand::Add(set) => {
            let path = workspace_path(&set.id);
            if read(client, &path).await?.is_some() {
                return Err(Failure::new(Exit::Conflict, format!("there is a workspace `{}` already", clean(&set.id)))
                    .hint(format!("`sigil workspace set {}` changes it", clean(&set.id))));
            }
            set_workspace(client, set, json!({}), None, ui).await
        }
        WorkspaceCommand::Set(set) => {
            let (said, etag) = there(client, &workspace_path(&set.id)).await?;
            set_workspace(client, set, said, etag, ui).await
        }
        WorkspaceCommand::Remove { id } => {
            let (_, etag) = there(client, &workspace_path(&id)).await?;
            let told = format!("Workspace {} is gone, with its rules.", clean(&id));
            put(client, Method::DELETE, &workspace_path(&id), None, etag.as_deref(), &told, ui).await
        }
        WorkspaceCommand::Member(args) => member(client, args, ui).await,
    }
}

async fn set_workspace(
    client: &Client,
    set: WorkspaceSet,
    mut said: Value,
    etag: Option<String>,
    ui: Ui,
) -> Result<Exit, Failure> {
    let WorkspaceSet { id, title, node, tool, members, guests, agents, devices } = set;
    let space = members_of(&mut said);
    if let Some(title) = title {
        space.insert("title".to_owned(), json!(title));
    }
    if !node.is_empty() {
        space.insert("nodes".to_owned(), json!(node));
    }
    if !tool.is_empty() {
        space.insert("tools".to_owned(), json!(tool));
    }
    let otherwise = [("members", members), ("guests", guests), ("agents", agents), ("devices", devices)];
    for (who, verdict) in otherwise.into_iter().filter_map(|(who, verdict)| Some((who, verdict?))) {
        members_of(space.entry("otherwise").or_insert_with(|| json!({})))
            .insert(who.to_owned(), json!(verdict.as_str()));
    }
    let told = format!("Done. `sigil workspace list {}` shows it.", clean(&id));
    put(client, Method::PUT, &workspace_path(&id), Some(&said), etag.as_deref(), &told, ui).await
}

async fn member(client: &Client, args: MemberArgs, ui: Ui) -> Result<Exit, Failure> {
    let MemberArgs { workspace, who, role, remove } = args;
    let path = workspace_path(&workspace);
    let (mut said, etag) = there(client, &path).await?;
    let members = members_of(members_of(&mut said).entry("members").or_insert_with(|| json!({})));
    let told = if remove {
        members.remove(&who);
        format!("{} is not in {} any more.", clean(&who), clean(&workspace))
    } else {
        members.insert(who.clone(), json!(role.as_str()));
        format!("{} is {} of {}.", clean(&who), role.as_str(), clean(&workspace))
    };
    put(client, Method::PUT, &path, Some(&said), etag.as_deref(), &told, ui).await
}

fn workspaces_text(body: &Value) -> String {
    let none = json!({});
    let count =
        |workspace: &Value, name: &str| workspace.get(name).and_then(Value::as_object).map_or(0, Map::len).to_string();
    let rows: Vec<_> = items(body)
        .iter()
        .map(|row| {
            let workspace = row.get("workspace").unwrap_or(&none);
            let (nodes, tools) = holds(&text(row, "id"), workspace);
            vec![
                text(row, "id"),
                text(workspace, "title"),
                nodes,
                tools,
                count(workspace, "members"),
                count(workspace, "rules"),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "There is no workspace: a device of tier owner may use everything, others `device.info`.\n`sigil workspace add family --node 'hub*'` makes one, and from then on workspaces decide; `sigil policy template family` shows a whole to begin with.".to_owned();
    }
    table(&["ID", "TITLE", "DEVICES", "TOOLS", "MEMBERS", "RULES"], &rows)
}

/// Devices and tools of a workspace, in words.
fn holds(id: &str, workspace: &Value) -> (String, String) {
    let has = |name| workspace.get(name).is_some();
    if id == "mesh" {
        return ("in every workspace".to_owned(), String::new());
    }
    if !has("nodes") && !has("tools") {
        return (if has("bind") { "see its `bind`" } else { "none" }.to_owned(), String::new());
    }
    (listed(workspace, "nodes", "all", "none"), listed(workspace, "tools", "all", "none"))
}

fn workspace_text(id: &str, workspace: &Value) -> String {
    let (nodes, tools) = holds(id, workspace);
    let pairs = |name: &str| {
        let pairs = workspace.get(name).and_then(Value::as_object).into_iter().flatten();
        let pairs: Vec<String> =
            pairs.map(|(who, what)| format!("{} {}", clean(who), clean(what.as_str().unwrap_or_default()))).collect();
        if pairs.is_empty() { "nobody".to_owned() } else { pairs.join(", ") }
    };
    let mut shown = fields(&[
        ("workspace", clean(id)),
        ("title", text(workspace, "title")),
        ("devices", nodes),
        ("tools", tools),
        ("members", pairs("members")),
        ("otherwise", pairs("otherwise")),
    ]);
    let rules = rules_table(id, workspace.get("rules"));
    let _ = write!(shown, "\n\n{}", rules.unwrap_or_else(|| "No rules.".to_owned()));
    shown
}

fn rules_table(domain: &str, rules: Option<&Value>) -> Option<String> {
    let rules = rules.and_then(Value::as_object).filter(|rules| !rules.is_empty())?;
    let rows: Vec<_> = rules
        .iter()
        .map(|(name, rule)| {
            vec![
                format!("{}/{}", clean(domain), clean(name)),
                text(rule, "verdict"),
                listed(rule, "who", "everyone", "nobody"),
                listed(rule, "nodes", "all", "none"),
                listed(rule, "tools", "all", "none"),
                text(rule, "note"),
            ]
        })
        .collect();
    Some(table(&["RULE", "SAYS", "WHO", "DEVICES", "TOOLS", "NOTE"], &rows))
}

// --- Rules ------------------------------------------------------------------------------------------------------------

pub(super) async fn rule(client: &Client, command: RuleCommand, ui: Ui) -> Result<Exit, Failure> {
    match command {
        RuleCommand::List { workspace: None } => {
            let body = client.get(WORKSPACES).await?;
            Ok(show(ui, "sigil.workspaces/1", body, |body| {
                let none = json!({});
                let tables = items(body)
                    .iter()
                    .filter_map(|row| rules_table(&text(row, "id"), row.get("workspace").unwrap_or(&none).get("rules")))
                    .collect::<Vec<_>>();
                if tables.is_empty() {
                    "There are no rules. `sigil rule deny mesh/NAME --who WHO --tool TOOL` makes one.".to_owned()
                } else {
                    tables.join("\n\n")
                }
            }))
        }
        RuleCommand::List { workspace: Some(workspace) } => {
            let body = client.get(&rules_path(&workspace)).await?;
            Ok(show(ui, "sigil.rules/1", body, |body| {
                rules_table(&workspace, body.get("rules")).unwrap_or_else(|| "There are no rules.".to_owned())
            }))
        }
        RuleCommand::Allow(args) => set_rule(client, "allow", args, Map::new(), ui).await,
        RuleCommand::Ask(AskArgs { rule, approver, wait }) => {
            let mut more = Map::new();
            if !approver.is_empty() {
                more.insert("approvers".to_owned(), json!(approver));
            }
            if let Some(wait) = wait {
                more.insert("wait".to_owned(), json!(wait));
            }
            set_rule(client, "ask", rule, more, ui).await
        }
        RuleCommand::Deny(args) => set_rule(client, "deny", args, Map::new(), ui).await,
        RuleCommand::Remove { rule } => {
            let (workspace, name) = parts(&rule)?;
            let path = rules_path(workspace);
            let (mut said, etag) = there(client, &path).await?;
            let rules = members_of(members_of(&mut said).entry("rules").or_insert_with(|| json!({})));
            if rules.remove(name).is_none() {
                return Err(Failure::new(Exit::NotFound, format!("there is no rule `{}`", clean(&rule)))
                    .hint("`sigil rule list` shows those that there are"));
            }
            let told = format!("Rule {} is gone.", clean(&rule));
            put(client, Method::PUT, &path, Some(&said), etag.as_deref(), &told, ui).await
        }
    }
}

/// The two parts of a rule's name.
fn parts(rule: &str) -> Result<(&str, &str), Failure> {
    rule.split_once('/').filter(|(workspace, name)| !workspace.is_empty() && !name.is_empty()).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("`{}` is no name of a rule", clean(rule)))
            .hint("write WORKSPACE/NAME; `mesh/NAME` holds in every workspace")
    })
}

async fn set_rule(
    client: &Client,
    verdict: &str,
    args: RuleArgs,
    more: Map<String, Value>,
    ui: Ui,
) -> Result<Exit, Failure> {
    let RuleArgs { rule, who, node, tool, note } = args;
    let (workspace, name) = parts(&rule)?;
    if verdict == "allow" && who.is_empty() {
        return Err(Failure::new(Exit::Usage, "a rule that allows must say to whom")
            .hint("add `--who NAME`, or `--who everyone` if you mean that"));
    }
    let path = rules_path(workspace);
    let (mut said, etag) = there(client, &path).await?;
    let mut made = Map::from_iter([("verdict".to_owned(), json!(verdict))]);
    for (field, list) in [("who", who), ("nodes", node), ("tools", tool)] {
        if !list.is_empty() {
            made.insert(field.to_owned(), json!(list));
        }
    }
    made.extend(more);
    if let Some(note) = note {
        made.insert("note".to_owned(), json!(note));
    }
    members_of(members_of(&mut said).entry("rules").or_insert_with(|| json!({}))).insert(name.to_owned(), json!(made));
    let told = format!("Rule {} holds. `sigil policy explain WHO NODE TOOL` tries it.", clean(&rule));
    put(client, Method::PUT, &path, Some(&said), etag.as_deref(), &told, ui).await
}

// --- All --------------------------------------------------------------------------------------------------------------

/// A principal as people name it: of a person the name alone will do.
pub(super) fn principal(who: String) -> String {
    if who.contains(':') { who } else { format!("person:{who}") }
}

pub(super) async fn policy(client: &Client, command: PolicyCommand, ui: Ui) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Show => {
            let body = client.get(POLICY).await?;
            Ok(show(ui, "sigil.policy/1", body, policy_text))
        }
        PolicyCommand::Explain { call: Some(id), .. } => {
            let body = client.get(&format!("/api/v1/calls/{}/explanation", segment(&id))).await?;
            Ok(show(ui, "sigil.explained-call/1", body, |body| explained_call_text(body, ui)))
        }
        PolicyCommand::Explain { who, node, tool, workspace, origin, token, call: None } => {
            let [who, node, tool] = [who, node, tool].map(Option::unwrap_or_default);
            let mut query = format!("?node={}&tool={}", segment(&node), segment(&tool));
            let who = (who != "me").then(|| principal(who));
            let named = [("principal", who), ("workspace", workspace), ("origin", origin), ("token", token)];
            for (name, value) in named {
                if let Some(value) = value {
                    let _ = write!(query, "&{name}={}", segment(&value));
                }
            }
            let body = client.get(&format!("{POLICY}/explain{query}")).await?;
            Ok(show(ui, "sigil.explained/1", body, |body| explained_text(body, ui)))
        }
        PolicyCommand::Matrix { workspace, by } => {
            let mut query = format!("?by={}", by.as_str());
            if let Some(workspace) = workspace {
                let _ = write!(query, "&workspace={}", segment(&workspace));
            }
            let body = client.get(&format!("{POLICY}/matrix{query}")).await?;
            Ok(show(ui, "sigil.matrix/1", body, |body| matrix_text(body, ui)))
        }
        PolicyCommand::DryRun { file, last } => dry_run(client, &file, last, ui).await,
        PolicyCommand::Conflicts => {
            let body = client.get(conflicts::PATH).await?;
            Ok(show(ui, "sigil.conflicts/1", body, |body| {
                conflicts::told(body).unwrap_or_else(|| "Nothing was edited in two halves of the mesh.".to_owned())
            }))
        }
        PolicyCommand::Keep { id } => conflicts::keep(client, &id, ui).await,
        PolicyCommand::Restore { id, text } => conflicts::restore(client, &id, text, ui).await,
        PolicyCommand::Edit { file } => edit(client, file.as_deref(), ui).await,
        PolicyCommand::On => mode(client, "workspaces", "Workspaces and rules decide.", ui).await,
        PolicyCommand::Off => {
            let told =
                "Tiers decide: a device of tier owner may use everything. What was said stays for `sigil policy on`.";
            mode(client, "open", told, ui).await
        }
        PolicyCommand::Template { .. } => Ok(Exit::Usage),
    }
}

async fn mode(client: &Client, mode: &str, told: &str, ui: Ui) -> Result<Exit, Failure> {
    put(client, Method::PUT, &format!("{POLICY}/mode"), Some(&json!({ "mode": mode })), None, told, ui).await
}

/// Prints rights to begin with, or which there are. Asks no agent.
pub(in crate::cli) fn templates(name: Option<&str>, ui: Ui) -> Result<Exit, Failure> {
    let Some(name) = name else {
        let list: Vec<_> = TEMPLATES.iter().map(|one| json!({ "name": one.name, "about": one.about })).collect();
        return Ok(show(ui, "sigil.templates/1", Body::from(json!({ "items": list })), |_| {
            let rows: Vec<_> = TEMPLATES.iter().map(|one| vec![one.name.to_owned(), one.about.to_owned()]).collect();
            format!(
                "{}\n\n`sigil policy template NAME > rights.toml`; put in your names, then `sigil policy edit --file rights.toml`.",
                table(&["NAME", "FOR"], &rows)
            )
        }));
    };
    let Some(found) = template(name) else {
        let names: Vec<&str> = TEMPLATES.iter().map(|one| one.name).collect();
        return Err(Failure::new(Exit::NotFound, format!("there is no template `{}`", clean(name)))
            .hint(format!("there are {}", names.join(", "))));
    };
    let body = Body::from(json!({ "name": found.name, "about": found.about, "toml": found.toml }));
    Ok(show(ui, "sigil.template/1", body, |_| found.toml.trim_end().to_owned()))
}

fn read_rights(path: &std::path::Path) -> Result<String, Failure> {
    if path.as_os_str() == "-" {
        return read_all("standard input", std::io::stdin());
    }
    let opened = std::fs::File::open(path);
    let opened = opened.map_err(|error| Failure::new(Exit::Usage, format!("reading {}: {error}", path.display())))?;
    read_all(&path.display().to_string(), opened)
}

async fn dry_run(client: &Client, file: &std::path::Path, last: u32, ui: Ui) -> Result<Exit, Failure> {
    let body = json!({ "toml": read_rights(file)?, "last": last }).to_string();
    let extras = Extras { body: Some(body), ..Extras::default() };
    let tried = client.ask(Method::POST, &format!("{POLICY}/dry-run"), extras).await?.json()?;
    Ok(show(ui, "sigil.dry-run/1", tried, dry_run_text))
}

fn dry_run_text(tried: &Value) -> String {
    let number = |name: &str| tried.get(name).and_then(Value::as_u64).unwrap_or(0);
    let list = |name: &str| tried.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let (changed, failed) = (list("changed"), list("failed_checks"));
    let mut shown = format!(
        "{} records would change, and {} of the last {} calls would be answered differently. Nothing was changed.",
        number("records"),
        changed.len(),
        number("total")
    );
    if !changed.is_empty() {
        let row = |call: &Value| {
            ["principal", "tool", "node", "before", "after", "rule", "call_id"].map(|name| text(call, name)).to_vec()
        };
        let rows: Vec<_> = changed.iter().map(row).collect();
        let heads = ["WHO", "TOOL", "NODE", "NOW", "THEN", "RULE", "CALL"];
        shown = format!("{shown}\n\n{}", table(&heads, &rows));
    }
    for check in &failed {
        let (name, expect, verdict) = (text(check, "name"), text(check, "expect"), text(check, "verdict"));
        let _ =
            write!(shown, "\n\nCheck `{name}` would not hold: the answer would be {verdict}, and must be {expect}.");
    }
    shown
}

async fn edit(client: &Client, file: Option<&std::path::Path>, ui: Ui) -> Result<Exit, Failure> {
    let (now, etag) = there(client, POLICY).await?;
    let toml = match file {
        Some(path) => read_rights(path)?,
        None => in_editor(now.get("toml").and_then(Value::as_str).unwrap_or_default())?,
    };
    let told = "These rights hold. `sigil policy matrix` shows who may use what.";
    put(client, Method::PUT, POLICY, Some(&json!({ "toml": toml })), etag.as_deref(), told, ui).await
}

/// Has the person change a text in the editor that she has chosen.
fn in_editor(text: &str) -> Result<String, Failure> {
    let editor =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let Some(editor) = editor else {
        return Err(Failure::new(Exit::Usage, "no editor is known").hint(
            "set EDITOR, or `sigil policy show > rights.toml`, change that, and `sigil policy edit --file rights.toml`",
        ));
    };
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("{what}: {error}"));
    let dir = std::env::temp_dir().join(format!("sigil-rights-{}", std::process::id()));
    crate::platform::claim_private_dir(&dir).map_err(|error| failed("making a directory for the text", &error))?;
    let path = dir.join("rights.toml");
    let edited = std::fs::write(&path, text)
        .and_then(|()| std::process::Command::new("sh").arg("-c").arg(format!("{editor} \"$0\"")).arg(&path).status())
        .and_then(|status| if status.success() { std::fs::read_to_string(&path) } else { Ok(text.to_owned()) });
    let _ = std::fs::remove_dir_all(&dir);
    edited.map_err(|error| failed(&format!("editing with {editor}"), &error))
}

fn policy_text(body: &Value) -> String {
    let toml = body.get("toml").and_then(Value::as_str).unwrap_or_default();
    let mut shown = match (text(body, "mode").as_str(), toml.is_empty()) {
        (_, true) => {
            return "Nobody has said who may use what: a device of tier owner may use everything, others `device.info`.\n`sigil policy template` shows rights to begin with.".to_owned();
        }
        ("open", false) => {
            "# Tiers decide, and not what stands here, until `sigil policy on` or the first workspace.\n".to_owned()
        }
        _ => String::new(),
    };
    for conflict in body.get("conflicts").and_then(Value::as_array).into_iter().flatten() {
        let by = conflict.get("by").and_then(Value::as_array).into_iter().flatten();
        let by: Vec<String> = by.map(|by| format!("{} at {}", text(by, "principal"), text(by, "node_id"))).collect();
        let _ = writeln!(
            shown,
            "# {} was edited by {} without knowing of each other: what takes a right away holds until `sigil policy conflicts` ends it.",
            text(conflict, "at"),
            by.join(" and ")
        );
    }
    for check in body.get("failed_checks").and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(
            shown,
            "# check {} does not hold: {} in place of {}.",
            text(check, "name"),
            text(check, "verdict"),
            text(check, "expect")
        );
    }
    shown.push_str(clean_lines(toml).trim_end());
    shown
}

fn verdict(word: &str, ui: Ui) -> String {
    let tone = match word {
        "allow" => Tone::Good,
        "ask" => Tone::Waiting,
        _ => Tone::Bad,
    };
    ui.paint(tone, &clean(word))
}

fn explained_text(body: &Value, ui: Ui) -> String {
    let mut shown = format!("{}: {}", verdict(&text(body, "verdict"), ui), text(body, "text"));
    let _ = write!(shown, "\n  rule    {}", text(body, "rule"));
    if let Some(workspace) = body.get("workspace").and_then(Value::as_str) {
        let _ = write!(shown, "\n  by      workspace {}", clean(workspace));
    }
    if let Some(change) = body.get("change_by").and_then(Value::as_str) {
        let _ = write!(shown, "\n  change  {}", clean(change));
    }
    if let Some(rate) = body.get("rate").filter(|rate| rate.is_object()) {
        let (per_s, burst) = (text(rate, "per_s"), text(rate, "burst"));
        let _ = write!(shown, "\n  rate    {per_s} calls a second at this device, {burst} at once (`calls.rate`)");
    }
    for step in body.get("steps").and_then(Value::as_array).into_iter().flatten() {
        let _ = write!(
            shown,
            "\n  {} {}: {}",
            verdict(&text(step, "verdict"), ui),
            ui.paint(Tone::Faint, &text(step, "layer")),
            text(step, "why")
        );
    }
    shown
}

fn explained_call_text(body: &Value, ui: Ui) -> String {
    let none = json!({});
    let now = body.get("now").unwrap_or(&none);
    let mut shown = format!("{}: {}", verdict(&text(body, "verdict"), ui), text(body, "text"));
    let rule = body.get("rule").and_then(Value::as_str).map_or_else(|| "none".to_owned(), clean);
    let taken = text(body, "accepted_by");
    let _ = write!(shown, "\n  call    {}, {}", text(body, "call_id"), text(body, "state"));
    let _ = write!(shown, "\n  rule    {rule}");
    if taken != rule && !taken.is_empty() {
        let _ = write!(shown, "\n  taken   {taken}");
    }
    if let Some(workspace) = body.get("workspace").and_then(Value::as_str) {
        let _ = write!(shown, "\n  by      workspace {}", clean(workspace));
    }
    if let Some(change) = now.get("change_by").and_then(Value::as_str) {
        let _ = write!(shown, "\n  change  {}", clean(change));
    }
    shown
}

/// One line for each who and device: the tools that she gets, and those for which she must ask.
fn matrix_text(body: &Value, ui: Ui) -> String {
    let list = |name: &str| body.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let index =
        |cell: &Value, name: &str| cell.get(name).and_then(Value::as_u64).and_then(|at| usize::try_from(at).ok());
    let (rows, cols) = (list("rows"), list("cols"));
    let mut lines: Vec<Vec<String>> = Vec::new();
    for (row, who) in rows.iter().enumerate() {
        let mut by_node: std::collections::BTreeMap<String, [Vec<String>; 3]> = std::collections::BTreeMap::new();
        for cell in list("cells").iter().filter(|cell| index(cell, "row") == Some(row)) {
            let Some(col) = index(cell, "col").and_then(|col| cols.get(col)) else { continue };
            let [allow, ask, deny] = by_node.entry(text(col, "node")).or_default();
            let into = match text(cell, "verdict").as_str() {
                "allow" => allow,
                "ask" => ask,
                _ => deny,
            };
            into.push(text(col, "tool"));
        }
        for (node, [allow, ask, deny]) in by_node {
            let shown = |tools: Vec<String>| if tools.is_empty() { "-".to_owned() } else { tools.join(", ") };
            lines.push(vec![
                clean(who.as_str().unwrap_or_default()),
                node,
                ui.paint(Tone::Good, &shown(allow)),
                ui.paint(Tone::Waiting, &shown(ask)),
                ui.paint(Tone::Bad, &shown(deny)),
            ]);
        }
    }
    if lines.is_empty() {
        return "Nobody is in this table. `sigil person add` adds somebody. Agents have a row once something is said of one by name; `sigil policy explain agent:PERSON/NAME NODE TOOL` asks about any.".to_owned();
    }
    table(&["WHO", "DEVICE", "ALLOW", "ASK", "DENY"], &lines)
}
