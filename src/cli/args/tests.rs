//! Command lines as people type them.

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn times_are_whole_seconds_and_a_wrong_one_is_told_the_right_form() {
    assert_eq!(whole_seconds("1m"), Ok(60));
    assert_eq!(whole_seconds("1h30m"), Ok(5_400));
    assert!(whole_seconds("1500ms").is_err());
    assert!(whole_seconds("0s").is_err());
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    for (text, next) in [("90", "90s"), ("1.5h", "1h30m"), ("", "30s")] {
        assert!(duration(text).is_err_and(|why| why.contains(next)), "{text}");
    }
}

#[test]
fn arguments_are_json_if_they_read_as_json() {
    let cli = parse(
        "sigil call attic t --arg n=3 --arg s=three --arg l=[1,2] --arg e= --arg z=007 --arg q=\"3\" --arg b=a=b",
    );
    let Ok(Cli { command: Command::Call(call), .. }) = cli else { panic!("{cli:?}") };
    let all = arguments(&call.args).expect("no name twice");
    assert_eq!(all.get(), r#"{"n":3,"s":"three","l":[1,2],"e":"","z":"007","q":"3","b":"a=b"}"#);
    assert!(parse("sigil call attic t --arg n").is_err());
    assert!(parse("sigil call attic t --arg =3").is_err());
    assert!(arguments(&[("a".into(), raw(&1)), ("a".into(), raw(&2))]).is_err());
}

#[test]
fn b02_arguments_are_passed_on_as_they_are_written() {
    let given = [
        "id=12345678901234567890123",
        "v=1.10",
        "huge=1e999",
        r#"o={"z": 1.10,  "a":1e2,"z":2}"#,
        r#"half="\ud800""#,
        "ü=ü\n",
    ];
    let all: Vec<_> = given.iter().map(|text| named_value(text).expect("a named value")).collect();
    assert_eq!(
        arguments(&all).expect("no name twice").get(),
        r#"{"id":12345678901234567890123,"v":1.10,"huge":1e999,"o":{"z": 1.10,  "a":1e2,"z":2},"half":"\ud800","ü":"ü\n"}"#
    );
}

#[test]
fn global_flags_may_stand_anywhere() {
    for line in ["sigil --json --home /x status", "sigil status --home /x --json"] {
        let cli = parse(line).expect(line);
        assert!(cli.json && cli.home == Some(PathBuf::from("/x")), "{line}");
    }
}

#[test]
fn join_takes_exactly_one_target() {
    let target = |line| match parse(line).map(|cli| cli.command) {
        Ok(Command::Join(join)) => Some((join.code, join.nearby, join.address.is_some())),
        _ => None,
    };
    assert_eq!(target("sigil join CODE"), Some((Some("CODE".into()), None, false)));
    assert_eq!(target("sigil join --nearby"), Some((None, Some(String::new()), false)));
    assert_eq!(target("sigil join --nearby attic"), Some((None, Some("attic".into()), false)));
    for line in ["sigil join --address [::1]:7433", "sigil join --address ::1", "sigil join --address nas"] {
        assert_eq!(target(line), Some((None, None, true)), "{line}");
    }
    assert_eq!(target("sigil join"), Some((None, None, false)), "it is asked for");
    for line in [
        "sigil join CODE --nearby attic",
        "sigil join CODE --address 1.2.3.4:5",
        "sigil join --address a/b",
        "sigil join --address 1.2.3",
        "sigil join --address nas:0",
    ] {
        assert_eq!(target(line), None, "{line}");
    }
}

#[test]
fn l08_a_dash_names_no_file_where_there_is_no_stream() {
    for command in ["backup", "restore", "man"] {
        let refused = parse(&format!("sigil {command} -")).expect_err(command).to_string();
        assert!(refused.contains("`./-`"), "{refused}");
        assert!(parse(&format!("sigil {command} ./-")).is_ok(), "{command}");
    }
}

#[test]
fn s27_a_tier_for_a_while_says_for_how_long() {
    for command in ["invite", "approve attic"] {
        let line = |rest: &str| format!("sigil {command} {rest}");
        for rest in ["--tier king", "--only echo", "--once", "--for 0s", "--for 1500ms"] {
            assert!(parse(&line(rest)).is_err(), "{rest}");
        }
        let refused = parse(&line("--tier ephemeral")).expect_err("no time").to_string();
        assert!(refused.contains("--for <TIME>"), "it says what to add: {refused}");
        for rest in ["--tier ephemeral --for 2h", "--for 2h --only lights.* --only tv.* --once"] {
            assert!(parse(&line(rest)).is_ok(), "{rest}");
        }
    }
    let help = |name: &str| {
        let mut cli = Cli::command();
        cli.find_subcommand_mut(name).expect(name).render_long_help().to_string()
    };
    assert!(help("invite").contains("ephemeral") && help("approve").contains("ephemeral"));
}

#[test]
fn contradictions_are_refused() {
    for line in [
        "sigil call a t --wait 3s --no-wait",
        "sigil call a t --arg k=v --input {}",
        "sigil call a",
        "sigil calls --queued --state done",
        "sigil calls --limit 201",
        "sigil up --quic-port 70000",
        "sigil invite --list --qr",
        "sigil token --list --revoke-all",
        "sigil frobnicate",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}
