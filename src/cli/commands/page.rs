//! `sigil ui`: the way to the web page.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use hyper::Method;
use serde_json::json;

use super::console::show;
use crate::cli::args::UiArgs;
use crate::cli::client::{Client, Extras};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, text};

/// Programs that open a page in the person's browser, the most usual first.
const OPENERS: [&str; 3] = ["xdg-open", "open", "wslview"];

pub(super) async fn ui(client: &Client, args: UiArgs, ui: Ui) -> Result<Exit, Failure> {
    if args.sign_out {
        client.ask(Method::DELETE, "/api/v1/sessions", Extras::default()).await?;
        return Ok(show(ui, "sigil.signed-out/1", json!({}).into(), |_| {
            "Every browser is signed out of this device's page.".to_owned()
        }));
    }
    let body = client.post("/api/v1/ui/codes", &json!({})).await?;
    if ui.json {
        return Ok(show(ui, "sigil.ui/1", body, |_| String::new()));
    }
    let answer = body.into_value();
    let (url, code, page) = (text(&answer, "url"), text(&answer, "code"), text(&answer, "page"));
    let here = format!("{url}\n\nThis opens one session, within two minutes. At {page} the code is {code}.");
    if args.print || !has_screen() {
        ui.print(&here);
        return Ok(Exit::Ok);
    }
    // Neither code nor page in the arguments of a program, which others on this machine see.
    let file = redirect(client.home(), &url).map_err(|error| {
        Failure::new(Exit::Failed, format!("writing the way to the page: {error}")).hint("`sigil ui --print`")
    })?;
    if open(&file) {
        ui.print("The page opens in your browser. If it does not: `sigil ui --print` shows its address.");
    } else {
        ui.print(&here);
    }
    Ok(Exit::Ok)
}

/// True if a browser could be seen from here.
fn has_screen() -> bool {
    let screen =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|set| !set.is_empty()));
    std::io::stdout().is_terminal() && (screen || cfg!(target_os = "macos"))
}

/// A file that only we may read, and that leads a browser to `url`.
fn redirect(home: &Path, url: &str) -> std::io::Result<PathBuf> {
    let path = home.join("run/ui.html");
    // Made with mode 0600.
    let mut part = tempfile::NamedTempFile::new_in(home.join("run"))?;
    writeln!(
        part,
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0;url={url}\"><title>sigil</title><a href=\"{url}\">sigil</a>"
    )?;
    part.persist(&path)?;
    Ok(path)
}

fn open(file: &Path) -> bool {
    OPENERS.iter().any(|opener| {
        let mut command = std::process::Command::new(opener);
        command.arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_reads_the_way_to_the_page() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("run")).unwrap();
        let url = "http://sigil-a.localhost:7434/#/in/AAAAA-AAAAA";
        for _ in 0..2 {
            let file = redirect(home.path(), url).unwrap();
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(std::fs::read_to_string(&file).unwrap().contains(&format!("0;url={url}\"")));
        }
    }
}
