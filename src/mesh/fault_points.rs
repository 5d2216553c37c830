//! Fault points of tests that the driver passes: there the process may die, or its links be cut for a while.
//!
//! Without the cargo feature `fault-points` nothing here does anything.

use std::time::Duration;

use mesh_core::entry::Kind;
use mesh_core::frame::{AnswerKind, Frame};
use mesh_core::ids::PublicKey;
use mesh_core::io::Input;
use tokio::time::Instant;

use crate::faults::{self, Action, Point};

/// Time for which links that a test cut stay down.
const CUT_FOR: Duration = Duration::from_millis(700);

/// State of the fault points: until when the links are cut, if they are.
#[derive(Debug, Default)]
pub(super) struct FaultPoints {
    cut_until: Option<Instant>,
}

impl FaultPoints {
    /// Passes the points before and after a run of a tool. Returns true if the links must be cut now.
    pub(super) fn pass_input(&mut self, input: &Input) -> bool {
        match input {
            Input::Recv(_, Frame::Dispatch(_)) => self.pass(Point::BeforeStarted),
            Input::ToolEnded(..) => self.pass(Point::AfterRun),
            Input::Recv(..)
            | Input::Wake
            | Input::LinkUp(_)
            | Input::LinkVia(..)
            | Input::Session(..)
            | Input::LinkDown(_)
            | Input::Durable(_)
            | Input::LogRead { .. }
            | Input::ClosedRead { .. }
            | Input::ToolProgress(..)
            | Input::Fetched(_)
            | Input::FetchFailed(_)
            | Input::FetchGone(_)
            | Input::Disk(_)
            | Input::NodeUp(..)
            | Input::NodeDown(..)
            | Input::Command(..)
            | Input::Refused(_)
            | Input::Untagged(_) => false,
        }
    }

    /// Passes the point where a tool is about to run. Returns true if the links must be cut now.
    pub(super) fn pass_invoke(&mut self) -> bool {
        self.pass(Point::AfterStarted)
    }

    /// Passes the point where an outcome of ours is about to be sent. Returns true if the links must be cut now.
    pub(super) fn pass_send(&mut self, frame: &Frame, me: &PublicKey) -> bool {
        cfg!(feature = "fault-points") && has_own_outcome(frame, me) && self.pass(Point::AfterOutcome)
    }

    /// Returns true while links must stay down.
    pub(super) fn are_links_cut(&self) -> bool {
        self.cut_until.is_some()
    }

    /// Returns true once when the time of a cut is over.
    pub(super) fn take_end_of_cut(&mut self) -> bool {
        self.cut_until.take_if(|until| Instant::now() >= *until).is_some()
    }

    fn pass(&mut self, point: Point) -> bool {
        let cut = matches!(faults::pass(point), Some(Action::Cut));
        if cut {
            self.cut_until = Some(Instant::now() + CUT_FOR);
        }
        cut
    }
}

fn has_own_outcome(frame: &Frame, me: &PublicKey) -> bool {
    if let Frame::Entries { entries, .. } = frame {
        entries.iter().any(|item| item.entry.entry.kind == Kind::OUTCOME && item.entry.entry.author == *me)
    } else {
        matches!(frame, Frame::Answer(answer) if matches!(answer.what, AnswerKind::Ended(_)))
    }
}
