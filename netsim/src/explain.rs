//! The story of one run for people: as text, and as a picture with one lane per peer.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::plan::{Case, SECOND};
use crate::trace::{Being, Moment};
use crate::world::Outcome;

/// The run as a text: the peers, the events in order, the end.
pub(crate) fn text(case: &Case, outcome: &Outcome) -> String {
    let mut text = String::new();
    let plan = &case.plan;
    let _ = writeln!(text, "seed {} of profile {}", case.seed, case.profile.name());
    if !case.history.is_empty() {
        let _ = writeln!(text, "  {}", case.history);
    }
    for (index, peer) in plan.peers.iter().enumerate() {
        let _ = writeln!(
            text,
            "  p{index}: {:?}, class {}{}{}{}",
            peer.tier,
            peer.class,
            if peer.eligible { "" } else { ", may not lead" },
            if peer.join_at > 0 { ", joins later" } else { "" },
            if peer.drift_ppm == 0 { String::new() } else { format!(", clocks {} ppm too fast", peer.drift_ppm) },
        );
    }
    if !plan.sparse.is_empty() {
        let _ = writeln!(text, "  without a way to each other until the end: {:?}", plan.sparse);
    }
    let _ = writeln!(text);
    text.push_str(&outcome.trace.text());
    let _ = writeln!(text);
    let stats = &outcome.stats;
    let _ = writeln!(
        text,
        "{} calls accepted, {} refused, {} tool runs, {} epochs; endings at their origins {:?}",
        stats.accepted, stats.refused, stats.runs, stats.epochs_led, stats.endings
    );
    if let Some(violation) = &outcome.violation {
        let at = violation.at as f64 / SECOND as f64;
        let _ = writeln!(text, "BROKEN at {at:.3} s: {}: {}", violation.predicate, violation.what);
    }
    text
}

const LEFT: f64 = 60.0;
const TOP: f64 = 50.0;
const LANE: f64 = 34.0;
const BAR: f64 = 16.0;

/// One colour per leader, so that who follows whom shows at a glance.
fn colour(leader: usize) -> String {
    format!("hsl({}, 65%, 62%)", leader * 137 % 360)
}

fn ending_colour(word: &str) -> &'static str {
    match word {
        "done" => "#14833b",
        "failed" => "#b3261e",
        "interrupted" => "#d97706",
        _ => "#555",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The picture: a lane per peer in the colour of the leader that it follows (striped dark where it leads itself), grey
/// where it is down, pale where it is frozen; calls as dots, cuts as arcs between lanes, faults above.
pub(crate) fn svg(case: &Case, outcome: &Outcome) -> String {
    let moments = &outcome.trace.moments;
    let count = case.plan.peers.len();
    let end = moments.last().map_or(1, |(at, _)| *at).max(outcome.stats.virtual_us).max(1);
    let width = (end as f64 / SECOND as f64 * 40.0).clamp(900.0, 6_000.0);
    let x = |at: u64| LEFT + at as f64 / end as f64 * width;
    let y = |peer: usize| TOP + peer as f64 * LANE;
    let height = y(count) + 30.0;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>",
        width + LEFT + 20.0
    );
    let mut rect = |from: u64, to: u64, top: f64, high: f64, fill: &str, title: &str| {
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{high:.1}\" fill=\"{fill}\"><title>{}</title></rect>",
            x(from),
            (x(to) - x(from)).max(0.5),
            escape(title)
        );
    };
    for peer in 0..count {
        let mut being = (0, None);
        let mut follows = (0, None);
        let last = (end, Moment::Is(peer, Being::Gone));
        let ending = (end, Moment::Follows(peer, None));
        for (at, moment) in moments.iter().chain([&ending, &last]) {
            match moment {
                Moment::Follows(of, whom) if *of == peer => {
                    if let (from, Some((leader, epoch))) = follows {
                        let title = format!("p{peer} follows p{leader} in epoch {epoch}");
                        rect(from, *at, y(peer), BAR, &colour(leader), &title);
                        if leader == peer {
                            let title = format!("p{peer} leads, epoch {epoch}");
                            rect(from, *at, y(peer) + BAR - 5.0, 5.0, "#222", &title);
                        }
                    }
                    follows = (*at, *whom);
                }
                Moment::Is(of, now) if *of == peer => {
                    match being {
                        (from, Some(Being::Down)) => rect(from, *at, y(peer), BAR, "#bbb", "down"),
                        (from, Some(Being::Gone)) => rect(from, *at, y(peer), BAR, "#eee", "gone"),
                        (from, Some(Being::Frozen)) => rect(from, *at, y(peer), BAR, "#cfe3ff", "frozen"),
                        (_, Some(Being::Awake) | None) => {}
                    }
                    being = (*at, Some(*now));
                }
                Moment::Is(..)
                | Moment::Follows(..)
                | Moment::Cut(..)
                | Moment::Accepted(_)
                | Moment::Runs(_)
                | Moment::Ended(..)
                | Moment::Fault(_)
                | Moment::Phase(_) => {}
            }
        }
    }
    let mut cuts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    for (at, moment) in moments {
        let at = *at;
        match moment {
            Moment::Cut(a, b, true) => {
                cuts.entry((*a, *b)).or_insert(at);
            }
            Moment::Cut(a, b, false) => {
                if let Some(from) = cuts.remove(&(*a, *b)) {
                    cut(&mut svg, x(from), x(at), y(*a) + BAR, y(*b), &format!("p{a} and p{b} are cut"));
                }
            }
            Moment::Accepted(peer) => dot(&mut svg, x(at), y(*peer) - 4.0, 2.5, "#1d4ed8", "a call is accepted"),
            Moment::Runs(peer) => dot(&mut svg, x(at), y(*peer) + BAR / 2.0, 3.0, "#000", "a tool starts"),
            Moment::Ended(peer, word, confirmed) => {
                let title = format!("its call is {word}{}", if *confirmed { "" } else { ", not confirmed" });
                dot(&mut svg, x(at), y(*peer) + BAR + 4.0, 2.5, ending_colour(word), &title);
            }
            Moment::Fault(what) => line(&mut svg, x(at), TOP - 12.0, TOP - 4.0, "#b3261e", what),
            Moment::Phase(name) => {
                line(&mut svg, x(at), TOP - 20.0, height - 24.0, "#ccc", name);
                let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", x(at) + 3.0, TOP - 24.0, escape(name));
            }
            Moment::Is(..) | Moment::Follows(..) => {}
        }
    }
    for ((a, b), from) in cuts {
        cut(&mut svg, x(from), x(end), y(a) + BAR, y(b), &format!("p{a} and p{b} are cut"));
    }
    for (peer, plan) in case.plan.peers.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"4\" y=\"{:.1}\">p{peer} ({})</text>",
            y(peer) + BAR - 4.0,
            if plan.eligible { format!("class {}", plan.class) } else { "no gateway".into() }
        );
    }
    let step = (end / SECOND / 20).max(1);
    for second in (0..=end / SECOND).step_by(step as usize) {
        let at = x(second * SECOND);
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{:.1}\" fill=\"#777\">{second} s</text>", height - 8.0);
    }
    if let Some(violation) = &outcome.violation {
        line(&mut svg, x(violation.at), 0.0, height, "#f00", &format!("{}: {}", violation.predicate, violation.what));
    }
    svg.push_str("</svg>\n");
    svg
}

fn dot(svg: &mut String, x: f64, y: f64, radius: f64, fill: &str, title: &str) {
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{fill}\"><title>{}</title></circle>",
        escape(title)
    );
}

fn line(svg: &mut String, x: f64, from: f64, to: f64, stroke: &str, title: &str) {
    let _ = writeln!(
        svg,
        "<path d=\"M{x:.1} {from:.1}V{to:.1}\" stroke=\"{stroke}\"><title>{}</title></path>",
        escape(title)
    );
}

/// A bracket between two lanes, from when they are cut to when they are not.
fn cut(svg: &mut String, from: f64, to: f64, top: f64, bottom: f64, title: &str) {
    let _ = writeln!(
        svg,
        "<path d=\"M{from:.1} {top:.1}V{bottom:.1}M{to:.1} {top:.1}V{bottom:.1}M{from:.1} {top:.1}H{to:.1}\" \
         stroke=\"#b3261e\" stroke-dasharray=\"2 2\" fill=\"none\" opacity=\"0.6\"><title>{}</title></path>",
        escape(title)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Profile;
    use crate::trace::Level;
    use crate::world;

    #[test]
    fn a_story_names_its_leaders_and_its_picture_has_a_lane_for_each_peer() {
        let case = Case::drawn(3, Profile::Five);
        let outcome = world::run(&case, Level::Story);
        let story = text(&case, &outcome);
        assert!(story.contains("follows p") && story.contains("RUNS"));
        let picture = svg(&case, &outcome);
        assert!((0..5).all(|peer| picture.contains(&format!(">p{peer} ("))));
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n") && picture.contains("leads, epoch"));
    }
}
