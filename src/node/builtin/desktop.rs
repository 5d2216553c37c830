//! Notices, the clipboard and the screen: which programs do that here, and what they are started with. What is not here is said,
//! with why and what to do. Pure but for [`Seen::look`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;

use super::{BuiltinError, NoArguments, parse};

/// Characters of the title of a notice, and of its text: a corner of a screen has room for less.
const TITLE_CHARS_MAX: usize = 200;
const BODY_CHARS_MAX: usize = 2_000;
/// Programs that are used where they are.
const PROGRAMS: [&str; 7] = ["notify-send", "wl-paste", "wl-copy", "xclip", "grim", "spectacle", "maim"];
/// Variables by which programs find the desktop that this agent runs in.
const VARIABLES: [&str; 7] = [
    "DISPLAY",
    "XAUTHORITY",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_CURRENT_DESKTOP",
    "XDG_SESSION_TYPE",
];

/// Something that a desktop can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Notify,
    ClipboardRead,
    ClipboardWrite,
    ScreenCapture,
}

/// What this agent sees of a desktop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Those of [`VARIABLES`] that are set.
    variables: BTreeMap<String, String>,
    /// Those of [`PROGRAMS`] that are there.
    programs: BTreeSet<&'static str>,
    /// There is a bus of the session.
    bus: bool,
}

/// A program that does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) wish: Wish,
    pub(super) command: &'static str,
    args: Vec<&'static str>,
    /// What it leaves running is left: whoever has written to a clipboard holds what is in it.
    pub(super) keep_running: bool,
    /// Type of its output.
    pub(super) media_type: &'static str,
    /// How it finds the desktop.
    pub(super) env: BTreeMap<String, String>,
}

/// The reason for which nothing does it here, and the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) why: String,
    pub(super) fix: String,
}

impl Seen {
    /// Looks at the environment of this agent, and in its `PATH` if there is a desktop. Blocks.
    pub(super) fn look() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut variables: BTreeMap<String, String> =
            VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), variable(name)?))).collect();
        let runtime = variables.get("XDG_RUNTIME_DIR").map(|dir| Path::new(dir).join("bus"));
        let bus = variables.contains_key("DBUS_SESSION_BUS_ADDRESS") || runtime.is_some_and(|bus| bus.exists());
        // In a sandbox a program has another home.
        if variables.contains_key("DISPLAY") && !variables.contains_key("XAUTHORITY") {
            let usual = std::env::var_os("HOME").map(|home| Path::new(&home).join(".Xauthority"));
            let usual = usual.filter(|path| path.exists()).and_then(|path| path.into_os_string().into_string().ok());
            variables.extend(usual.map(|path| ("XAUTHORITY".to_owned(), path)));
        }
        let mut seen = Self { variables, programs: BTreeSet::new(), bus };
        if bus || seen.has_display() {
            let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(crate::platform::PATH_DEFAULT));
            let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
            seen.programs =
                PROGRAMS.into_iter().filter(|name| dirs.iter().any(|dir| dir.join(name).is_file())).collect();
        }
        seen
    }

    fn has(&self, variable: &str) -> bool {
        self.variables.contains_key(variable)
    }

    fn has_display(&self) -> bool {
        self.has("WAYLAND_DISPLAY") || self.has("DISPLAY")
    }

    /// The file that lets programs at the screen, if it is one.
    pub(super) fn authority(&self) -> Option<PathBuf> {
        self.variables.get("XAUTHORITY").map(PathBuf::from)
    }

    /// The program for a wish.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn recipe(&self, wish: Wish) -> Result<Recipe, Lack> {
        let lack = |why: &str, fix: &str| Err(Lack { why: why.to_owned(), fix: fix.to_owned() });
        let in_session = "start the agent from the session of a desktop, with its environment";
        match wish {
            Wish::Notify if !self.bus => {
                lack("this agent runs in no session of a desktop: there is no session bus", in_session)
            }
            Wish::ClipboardRead | Wish::ClipboardWrite | Wish::ScreenCapture if !self.has_display() => {
                lack("this agent has no display: neither WAYLAND_DISPLAY nor DISPLAY is set", in_session)
            }
            Wish::ScreenCapture if self.has("WAYLAND_DISPLAY") && self.is_gnome() => lack(
                "GNOME on Wayland asks a person for each picture of its screen",
                "log in to GNOME on Xorg, or to another desktop",
            ),
            Wish::Notify | Wish::ClipboardRead | Wish::ClipboardWrite | Wish::ScreenCapture => {
                let (on_wayland, on_x) = of(wish);
                let by = |list: &'static [By]| list.iter().find(|by| self.programs.contains(by.needs));
                // What runs on Wayland often has an X server beside it, which has another clipboard, and no picture of the
                // screen.
                let list = if self.has("WAYLAND_DISPLAY") { on_wayland } else { on_x };
                let Some(by) = by(list) else {
                    let names: Vec<&str> = list.iter().map(|by| by.needs).collect();
                    return Err(Lack {
                        why: format!("no program for it is installed: {}", names.join(" or ")),
                        fix: format!("install {}, and then `sigil reload`", list.first().map_or("it", |by| by.package)),
                    });
                };
                Ok(Recipe {
                    wish,
                    command: by.command,
                    args: by.args.to_vec(),
                    keep_running: wish == Wish::ClipboardWrite,
                    media_type: match wish {
                        Wish::ScreenCapture => "image/png",
                        Wish::Notify | Wish::ClipboardRead | Wish::ClipboardWrite => "text/plain",
                    },
                    env: self.variables.clone(),
                })
            }
        }
    }

    fn is_gnome(&self) -> bool {
        let desktop = self.variables.get("XDG_CURRENT_DESKTOP");
        desktop.is_some_and(|desktop| desktop.split(':').any(|name| name.eq_ignore_ascii_case("gnome")))
    }
}

/// A way to do something.
struct By {
    /// The program that has to be there.
    needs: &'static str,
    /// Its package in Debian.
    package: &'static str,
    command: &'static str,
    args: &'static [&'static str],
}

const fn by(needs: &'static str, package: &'static str, args: &'static [&'static str]) -> By {
    By { needs, package, command: needs, args }
}

const NOTIFY: &[By] = &[by("notify-send", "libnotify-bin", &["--app-name=sigil"])];
const PASTE: &[By] = &[by("wl-paste", "wl-clipboard", &["--no-newline", "--type", "text"])];
const PASTE_ON_X: &[By] = &[by("xclip", "xclip", &["-selection", "clipboard", "-out"])];
const COPY: &[By] = &[by("wl-copy", "wl-clipboard", &["--type", "text/plain"])];
const COPY_ON_X: &[By] = &[by("xclip", "xclip", &["-selection", "clipboard", "-in"])];
/// It writes no picture to its output.
const SPECTACLE: By = By {
    needs: "spectacle",
    package: "kde-spectacle",
    command: "sh",
    args: &["-c", "spectacle -b -n -o ./screen.png >&2 && cat ./screen.png"],
};
const PICTURE: &[By] = &[by("grim", "grim", &["-"]), SPECTACLE];
const PICTURE_ON_X: &[By] = &[by("maim", "maim", &[]), SPECTACLE];

/// Ways on Wayland, and on X.
const fn of(wish: Wish) -> (&'static [By], &'static [By]) {
    match wish {
        Wish::Notify => (NOTIFY, NOTIFY),
        Wish::ClipboardRead => (PASTE, PASTE_ON_X),
        Wish::ClipboardWrite => (COPY, COPY_ON_X),
        Wish::ScreenCapture => (PICTURE, PICTURE_ON_X),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `title`, and perhaps `body` and `urgency`")]
struct Notice {
    title: String,
    body: Option<String>,
    #[serde(default)]
    urgency: Urgency,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Urgency {
    Low,
    #[default]
    Normal,
    Critical,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `text`")]
struct Text {
    text: String,
}

impl Recipe {
    /// Its arguments and its input for a call.
    ///
    /// # Errors
    /// The arguments of the call do not fit.
    pub(super) fn of_call(&self, arguments: &[u8]) -> Result<(Vec<String>, Bytes), BuiltinError> {
        let mut args: Vec<String> = self.args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut input = Bytes::new();
        match self.wish {
            Wish::ClipboardRead | Wish::ScreenCapture => {
                let NoArguments {} = parse(arguments)?;
            }
            Wish::ClipboardWrite => {
                let Text { text } = parse(arguments)?;
                input = text.into();
            }
            Wish::Notify => {
                let Notice { title, body, urgency } = parse(arguments)?;
                let title = crate::text::visible(&title);
                let body = crate::text::visible_lines(&body.unwrap_or_default());
                for (name, text, max) in [("title", &title, TITLE_CHARS_MAX), ("body", &body, BODY_CHARS_MAX)] {
                    if text.chars().count() > max {
                        return Err(BuiltinError::Arguments(format!("`{name}` has more than {max} characters")));
                    }
                }
                if title.trim().is_empty() {
                    return Err(BuiltinError::Arguments("`title` says nothing".to_owned()));
                }
                let urgency = match urgency {
                    Urgency::Low => "low",
                    Urgency::Normal => "normal",
                    Urgency::Critical => "critical",
                };
                // The text of a notice may be markup, with links.
                let body = body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                args.extend([format!("--urgency={urgency}"), "--".to_owned(), title, body]);
            }
        }
        Ok((args, input))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(variables: &[(&str, &str)], programs: &[&'static str], bus: bool) -> Seen {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Seen { variables, programs: programs.iter().copied().collect(), bus }
    }

    #[test]
    fn the_program_that_is_there_is_used_and_what_is_lacking_is_told() {
        let all = &PROGRAMS[..];
        let (x, wayland) = (("DISPLAY", ":0"), ("WAYLAND_DISPLAY", "wayland-0"));
        let command = |seen: &Seen, wish| seen.recipe(wish).map(|recipe| recipe.command);
        for (seen, wish, expected) in [
            (seen(&[], all, true), Wish::Notify, Ok("notify-send")),
            (seen(&[x], all, false), Wish::ClipboardRead, Ok("xclip")),
            (seen(&[x, wayland], all, false), Wish::ClipboardRead, Ok("wl-paste")),
            (seen(&[x, wayland], all, false), Wish::ClipboardWrite, Ok("wl-copy")),
            (seen(&[x], all, false), Wish::ScreenCapture, Ok("maim")),
            (seen(&[x], &["spectacle"], false), Wish::ScreenCapture, Ok("sh")),
            (seen(&[wayland], all, false), Wish::ScreenCapture, Ok("grim")),
            (seen(&[wayland], &["spectacle"], false), Wish::ScreenCapture, Ok("sh")),
            (seen(&[x], all, false), Wish::Notify, Err("session bus")),
            (seen(&[], all, true), Wish::ClipboardWrite, Err("no display")),
            (seen(&[], all, true), Wish::ScreenCapture, Err("no display")),
            (seen(&[], &[], true), Wish::Notify, Err("notify-send")),
            (seen(&[wayland], &["xclip"], true), Wish::ClipboardRead, Err("wl-paste")),
            (seen(&[x], &["grim"], true), Wish::ScreenCapture, Err("maim or spectacle")),
            (seen(&[wayland, ("XDG_CURRENT_DESKTOP", "ubuntu:GNOME")], all, true), Wish::ScreenCapture, Err("GNOME")),
        ] {
            match (command(&seen, wish), expected) {
                (Ok(command), Ok(expected)) => assert_eq!(command, expected),
                (Err(lack), Err(part)) => assert!(lack.why.contains(part) && !lack.fix.is_empty(), "{lack:?}"),
                (got, expected) => panic!("{wish:?}: {got:?} and not {expected:?}"),
            }
        }
    }

    #[test]
    fn arguments_of_a_call_are_words_and_never_options() {
        let seen = seen(&[("DISPLAY", ":0")], &PROGRAMS, true);
        let of = |wish, arguments: &str| seen.recipe(wish).unwrap().of_call(arguments.as_bytes());
        let (args, input) =
            of(Wish::Notify, r#"{"title":"--help","body":"<a href='x'>1 & 2</a>\u001b","urgency":"low"}"#).unwrap();
        let expected = ["--app-name=sigil", "--urgency=low", "--", "--help", "&lt;a href='x'&gt;1 &amp; 2&lt;/a&gt;"];
        assert_eq!((args, input), (expected.map(str::to_owned).to_vec(), Bytes::new()));
        let (args, input) = of(Wish::ClipboardWrite, r#"{"text":"a\nb"}"#).unwrap();
        assert_eq!((args[1].as_str(), &input[..]), ("clipboard", &b"a\nb"[..]));
        for (wish, arguments) in [
            (Wish::Notify, "{}"),
            (Wish::Notify, r#"{"title":" "}"#),
            (Wish::Notify, r#"{"title":"x","icon":"/etc/passwd"}"#),
            (Wish::Notify, r#"{"title":"x","urgency":"--x"}"#),
            (Wish::ClipboardWrite, "{}"),
            (Wish::ClipboardRead, r#"{"text":"x"}"#),
            (Wish::ScreenCapture, "[]"),
        ] {
            assert!(matches!(of(wish, arguments), Err(BuiltinError::Arguments(_))), "{wish:?} {arguments}");
        }
        let long = format!(r#"{{"title":"{}"}}"#, "x".repeat(TITLE_CHARS_MAX + 1));
        assert!(of(Wish::Notify, &long).is_err());
    }
}
