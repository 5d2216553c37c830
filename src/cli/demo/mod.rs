//! `sigil demo`: three real peers, told step by step.

mod report;
mod story;
mod teller;

use tokio::signal::unix::{SignalKind, signal};

use self::story::Story;
use self::teller::{STOPPED, Teller};
use crate::cli::args::DemoArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Ui;

pub(crate) async fn run(args: &DemoArgs, ui: Ui) -> Result<Exit, Failure> {
    let teller = Teller::new(ui);
    let mut stop = Stop::listen()?;
    let mut story = Story::new(teller)?;
    let told = tokio::select! {
        told = story.tell() => told,
        () = stop.wanted() => Err(Failure::new(Exit::Failed, STOPPED)),
    };
    if let Err(failure) = &told {
        story.broke_off(failure);
    }
    let held = story.conclude();
    if ui.json {
        ui.document("sigil.demo/1", story.to_json());
    }
    if held && !args.once {
        story.epilogue().await;
        stop.wanted().await;
        teller.line("\nStopping the three peers.");
    }
    story.end().await;
    told?;
    Ok(if held { Exit::Ok } else { Exit::Failed })
}

/// Every polite way of being asked to stop. Listening from the start, so that none of them ends us before our peers.
struct Stop([tokio::signal::unix::Signal; 3]);

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("signals cannot be listened for: {error}")))
        };
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    async fn wanted(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
