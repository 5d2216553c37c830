//! demo
use crate::cli::args::DemoArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Ui;
pub(crate) async fn run(_args: &DemoArgs, _ui: Ui) -> Result<Exit, Failure> {
    Ok(Exit::Failed)
}
