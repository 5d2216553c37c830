//! Built-in tools that programs of this device do: those of its desktop, and commands that its owner allows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mesh_core::ids::ToolName;
use mesh_core::record::Effect;
use tokio_util::sync::CancellationToken;

use super::desktop::{Lack, Recipe, Seen, Wish};
use super::{BuiltinError, TAKEN, Told, shell};
use crate::config::Shell;
use crate::node::provider::{Absent, Job, Parts, Place, Run};
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::process::{self, Launch, Launcher, Spec};
use crate::runtime::sandbox::{Level, Sandbox};
use crate::runtime::spool::Kind;

const fn told(name: &'static str, description: &'static str) -> Told {
    Told { name, description, owner_only: true }
}

/// What a desktop may do.
const OF_DESKTOP: [(Told, Wish, Effect); 4] = [
    (told("notify", "shows a notice on the screen of this device"), Wish::Notify, Effect::Once),
    (told("clipboard.read", "the text in the clipboard of this device"), Wish::ClipboardRead, Effect::None),
    (told("clipboard.write", "puts text into the clipboard of this device"), Wish::ClipboardWrite, Effect::Idempotent),
    (told("screen.capture", "a picture of the screen of this device"), Wish::ScreenCapture, Effect::None),
];
const SHELL_RUN: Told = told("shell.run", "runs a command that the owner of this device allows");
/// Number of all of them.
pub(super) const COUNT: usize = OF_DESKTOP.len() + 1;
/// Longest run of a program of the desktop.
const DESKTOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a picture of a screen: more than four of the largest ones have.
const PICTURE_BYTES_MAX: u64 = 64 << 20;

/// Those that there are, and why the others are not.
#[derive(Debug)]
pub(super) struct Programs {
    launcher: Launcher,
    seen: Seen,
    shell: Shell,
    tools: BTreeMap<ToolName, (Told, Effect, Does)>,
    absent: Vec<Absent>,
}

#[derive(Debug, Clone)]
enum Does {
    Desktop(Arc<Recipe>, Option<PathBuf>),
    Shell(Arc<Vec<Vec<String>>>),
}

/// What one of them is offered with.
pub(super) struct Offered {
    pub(super) told: Told,
    pub(super) effect: Effect,
    pub(super) timeout: Duration,
    pub(super) max_output: u64,
}

impl Programs {
    /// Looks at what there is. Blocks for some files.
    pub(super) fn look(shell: &Shell, is_taken: impl Fn(&Told) -> bool, launcher: Launcher) -> Self {
        let seen = Seen::look();
        let (mut tools, mut absent) = (BTreeMap::new(), Vec::new());
        let mut put = |told: Told, effect, does: Result<Does, Lack>| {
            let does =
                if is_taken(&told) { Err(Lack { why: TAKEN.0.to_owned(), fix: TAKEN.1.to_owned() }) } else { does };
            match does {
                Ok(does) => {
                    tools.insert(told.name.parse().expect("our own names are valid"), (told, effect, does));
                }
                Err(Lack { why, fix }) => absent.push(Absent { tool: told.name.to_owned(), why, fix }),
            }
        };
        for (told, wish, effect) in OF_DESKTOP {
            let recipe = seen.recipe(wish);
            put(told, effect, recipe.map(|recipe| Does::Desktop(Arc::new(recipe), seen.authority())));
        }
        let allow = match shell.allow.as_slice() {
            [] => Err(Lack {
                why: "no command is allowed".to_owned(),
                fix: "name commands in `shell.allow` of sigil.toml, then `sigil reload`".to_owned(),
            }),
            allow => Ok(Does::Shell(Arc::new(allow.to_vec()))),
        };
        put(SHELL_RUN, Effect::Once, allow);
        Self { launcher, seen, shell: shell.clone(), tools, absent }
    }

    /// The same with new settings, and what there is by now.
    pub(super) fn again(&self, shell: &Shell, is_taken: impl Fn(&Told) -> bool) -> Self {
        Self::look(shell, is_taken, self.launcher.clone())
    }

    /// True if nothing has changed.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.seen == other.seen && self.shell == other.shell
    }

    pub(super) fn offered(&self) -> impl Iterator<Item = (ToolName, Offered)> {
        self.tools.iter().map(|(name, (told, effect, does))| {
            let (timeout, max_output) = match does {
                Does::Desktop(..) => (DESKTOP_TIMEOUT, PICTURE_BYTES_MAX),
                Does::Shell(_) => (self.shell.timeout, mesh_core::limits::RESULT_BYTES_MAX),
            };
            (name.clone(), Offered { told: *told, effect: *effect, timeout, max_output })
        })
    }

    pub(super) fn absent(&self) -> Vec<Absent> {
        self.absent.clone()
    }

    /// Takes a job, if it is for one of them. Its program is started soon.
    pub(super) fn take(&self, job: &Job, place: impl FnOnce() -> Place) -> Option<Box<dyn Run>> {
        let (_, _, does) = self.tools.get(&job.tool)?;
        let begun = match does {
            Does::Desktop(recipe, authority) => recipe.of_call(&job.arguments).map(|(args, input)| {
                let spec = Spec {
                    command: recipe.command.into(),
                    args,
                    env: recipe.env.clone(),
                    cwd: None,
                    keep_running: recipe.keep_running,
                };
                let kind = Kind { media_type: recipe.media_type.to_owned(), ..Kind::default() };
                (self.launcher.launch_in(spec, desktop(authority.clone())), input, Some(kind))
            }),
            Does::Shell(allow) => shell::command(&job.arguments, allow).map(|argv| {
                let mut words = argv.into_iter();
                let command = PathBuf::from(words.next().unwrap_or_default());
                let spec =
                    Spec { command, args: words.collect(), env: BTreeMap::new(), cwd: None, keep_running: false };
                // As what the owner writes into the settings.
                (self.launcher.launch(spec), Bytes::new(), None)
            }),
        };
        Some(match begun {
            Ok((launch, input, kind)) => {
                Box::new(ProgramRun { launch, input, kind, time: job.timeout, place: place() })
            }
            Err(error) => Box::new(Unstarted(error)),
        })
    }
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = Told> {
    OF_DESKTOP.into_iter().map(|(told, ..)| told).chain([SHELL_RUN])
}

/// That of programs that talk to a desktop: over its sockets, and for the rest they are kept in as far as that goes. What is
/// written to a clipboard stays with its program, so it cannot have a world of its own.
fn desktop(authority: Option<PathBuf>) -> Sandbox {
    Sandbox {
        wanted: Level::Confined,
        unix_sockets: true,
        read: authority.into_iter().collect(),
        ..Sandbox::best(Level::Bare)
    }
}

struct Unstarted(BuiltinError);

impl Run for Unstarted {
    fn finish<'a>(self: Box<Self>, _: &'a mut Parts<'_>, _: &'a CancellationToken) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move { self.0.end().into() })
    }
}

struct ProgramRun {
    launch: Launch,
    input: Bytes,
    kind: Option<Kind>,
    time: Duration,
    place: Place,
}

impl Run for ProgramRun {
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            let Self { launch, input, kind, time, place } = *self;
            let Parts { spool, note } = parts;
            if let Some(kind) = kind {
                spool.set_kind(kind);
            }
            let stop = cancel.child_token();
            let mut run = pin!(process::run(launch, time, input, &stop, spool, note));
            tokio::select! {
                biased;
                outcome = &mut run => return outcome,
                () = place.ended() => stop.cancel(),
            }
            let outcome = run.await;
            match (&outcome.end, cancel.is_cancelled()) {
                (RunEnd::Cancelled(_), false) => {
                    RunOutcome { end: RunEnd::Lost("its tool was replaced while it ran".to_owned()), ..outcome }
                }
                (_, _) => outcome,
            }
        })
    }
}
