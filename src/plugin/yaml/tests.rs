use std::time::Duration;

use mesh_core::record::Effect;
use proptest::prelude::*;

use super::super::{
    Capability, Consent, Instance, Level, NetworkMode, Protocol, Pull, Runs, SecretName, Tier, ToolOutput, User, Value,
};
use std::fmt::Write as _;

use super::*;

const WHOLE: &str = "\
schema: sigil/plugin/v1
name: photo-tools
version: 1.2.0
description: Resizes photos
capabilities: [files, network]
execution:
  tier: container
  protocol: json
  image: ghcr.io/org/photo:1.10
  pull: missing
  command: [/app/photo]
  env: { LANG: C.UTF-8, API_KEY: { secret: photo-key }, PORT: 0080, HOST: { env: HOSTNAME }, CERT: { file: /etc/cert } }
  network: restricted
  egress: ['api.example.org:443', '*.example.net', 'example.net', 'lan:nas.home:5000']
  read: [/srv/photos]
  write: [/srv/photos/out/]
  user: '65534:65534'
  memory_limit: 256Mi
  cpu_limit: 500m
  pids_limit: 256
  tmp_size: 64Mi
  shm_size: 0
  output_limit: 64Mi
  timeout: 60s
  concurrency: 4
  instance: call
  warm: 1
  idle: 5m
  min_level: confined
tools:
  - name: resize
    title: Resize a photo
    effect: idempotent
    args: [resize]
    input_schema: { type: object, properties: { path: { type: string } }, required: [path] }
    output: { media_type: image/png }
    timeout: 20s
    owner_only: false
  - { name: off }
";

fn good(text: &str) -> Plugin {
    let read = read(text).unwrap();
    assert_eq!(read.warnings, [""; 0]);
    read.plugin
}

fn error(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn a_whole_manifest_is_understood() {
    let plugin = good(WHOLE);
    assert_eq!((plugin.name.as_str(), plugin.description.as_str()), ("photo-tools", "Resizes photos"));
    assert_eq!(plugin.version, Some(semver::Version::new(1, 2, 0)));
    assert_eq!(plugin.capabilities.clone().into_iter().collect::<Vec<_>>(), [Capability::Files, Capability::Network]);
    let Runs::Container(program, container) = &plugin.execution.runs else {
        panic!("{plugin:?}", plugin = plugin.execution)
    };
    assert_eq!(container.image.as_str(), "ghcr.io/org/photo:1.10");
    assert_eq!((container.pull, container.user), (Pull::Missing, User::Ids(65534, 65534)));
    assert_eq!((container.instance, container.warm, container.idle), (Instance::Call, 1, Some(Duration::from_mins(5))));
    assert_eq!(program.command, ["/app/photo"]);
    assert_eq!(program.env["LANG"], Value::Text("C.UTF-8".to_owned()));
    assert_eq!(program.env["PORT"], Value::Text("0080".to_owned()), "as it was written");
    assert_eq!(program.env["API_KEY"], Value::Secret("photo-key".parse().unwrap()));
    assert_eq!(program.env["HOST"], Value::Env("HOSTNAME".to_owned()));
    assert_eq!(program.env["CERT"], Value::File("/etc/cert".into()));
    assert_eq!(plugin.given().into_iter().collect::<Vec<_>>(), ["$HOSTNAME", "/etc/cert"]);
    // It names something of the house.
    let consents = [Consent::HostNetwork, Consent::HostData, Consent::Secrets];
    assert_eq!(plugin.consents().into_iter().collect::<Vec<_>>(), consents);
    assert_eq!((program.network, program.egress.len()), (NetworkMode::Restricted, 4));
    assert_eq!(program.write, [std::path::Path::new("/srv/photos/out")]);
    assert_eq!((program.cpu_limit, program.pids_limit), (Some(500), Some(256)));
    assert_eq!((plugin.execution.min_level, plugin.execution.timeout), (Level::Confined, Duration::from_mins(1)));
    let [resize, off] = &plugin.tools[..] else { panic!("two") };
    assert_eq!((resize.name.as_str(), resize.effect), ("photo-tools.resize", Effect::Idempotent));
    assert_eq!(resize.output, ToolOutput::Media("image/png".to_owned()));
    assert!(!resize.owner_only && resize.input_schema.is_some() && resize.timeout == Some(Duration::from_secs(20)));
    assert_eq!((off.name.as_str(), off.effect, off.owner_only), ("photo-tools.off", Effect::Once, true));
}

#[test]
fn each_kind_of_plugin_needs_little() {
    let process =
        good("name: lamp\nprefix: ''\nexecution: { tier: process, command: [./bin/lamp] }\ntools: [{ name: lamp }]");
    assert_eq!((process.tier(), process.tools[0].name.as_str()), (Some(Tier::Process), "lamp"));
    assert_eq!(process.consents().into_iter().collect::<Vec<_>>(), [Consent::Process]);
    assert_eq!(process.program().map(|program| program.network), Some(NetworkMode::None));
    let grpc = good("name: g\nexecution: { protocol: grpc, grpc_port: 50051, image: x }");
    assert_eq!((grpc.execution.protocol, grpc.consents().len()), (Protocol::Grpc(50051), 0));
    let mcp = read(
        "name: m\nexecution: { tier: process, protocol: mcp, command: [node, x.js], network: host, cancel: restart, lazy: true }\n\
         expose: ['read_*']\napprove: ['Write_*']\neffects: { get: none }",
    )
    .unwrap();
    assert!(mcp.warnings.len() == 1 && mcp.warnings[0].contains("sigil rule ask"), "{:?}", mcp.warnings);
    let mcp = mcp.plugin;
    assert!(mcp.mcp.lazy && mcp.mcp.expose.len() == 1 && mcp.mcp.effects[&"get".parse().unwrap()] == Effect::None);
    assert_eq!(mcp.consents().len(), 2);
    let http = good(
        "name: h\nexecution: { protocol: mcp, url: 'https://host/mcp', headers: { Authorization: { secret: tok } } }",
    );
    assert_eq!(http.secrets().into_iter().map(SecretName::as_str).collect::<Vec<_>>(), ["tok"]);
    assert_eq!(
        (http.tier(), http.consents().into_iter().collect::<Vec<_>>()),
        (None, vec![Consent::HostNetwork, Consent::Secrets])
    );
    for asks in [
        "env: { A: { file: /etc/shadow } }",
        "env: { A: { env: HOME } }",
        "read: [/srv]",
        "write: [/srv]",
        "unix_sockets: true",
    ] {
        let text =
            format!("name: x\nexecution:\n  tier: process\n  command: [cat]\n  {asks}\ntools: [{{ name: run }}]");
        assert_eq!(
            good(&text).consents().into_iter().collect::<Vec<_>>(),
            [Consent::Process, Consent::HostData],
            "{asks}"
        );
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let manifest = WHOLE.replace("network: restricted", "network: internal");
    assert_eq!(
        error(&manifest),
        "plugin.yaml:13:12: execution.network = \"internal\" is not allowed: it must be none, restricted or host"
    );
    let process = "name: x\nexecution:\n  tier: process\n  command: [cat]\ntools:\n  - name: run\n";
    let with = |line: &str| process.replace("  command", &format!("  {line}\n  command"));
    for (text, parts) in [
        ("", ["plugin.yaml", "name"]),
        ("name: X", ["plugin.yaml:1:7: name = \"X\"", "a-z"]),
        ("name: x", ["plugin.yaml: execution.image = \"\"", "ghcr.io"]),
        ("name: x\nexecution: { tier: pod }", ["plugin.yaml:2:20: execution.tier = \"pod\"", "process or container"]),
        ("name: x\nname: y", ["plugin.yaml:2:1: ", "name"]),
        ("name: [", ["plugin.yaml:", ""]),
        ("name: x\nexecution: 3", ["plugin.yaml:2:12: ", ""]),
        ("- a", ["plugin.yaml:1:", ""]),
        (&with("memory_limit: 8Mi"), ["plugin.yaml:4:17: execution.memory_limit = \"8Mi\"", "16Mi to 64Gi"]),
        (&with("cpu_limit: 0"), ["execution.cpu_limit", "thousandths"]),
        (&with("pids_limit: 0"), ["execution.pids_limit = \"0\"", "1 to 32768"]),
        (&with("timeout: 25h"), ["execution.timeout = \"25h\"", "to 1d"]),
        (&with("output_limit: 65Mi"), ["execution.output_limit", "at most 64MiB"]),
        (&with("concurrency: 65"), ["execution.concurrency", "1 to 64"]),
        (&with("image: x"), ["execution.image = \"x\"", "of containers"]),
        (&with("warm: 1"), ["execution.warm", "of containers"]),
        (&with("protocol: grpc\n  grpc_port: 1"), ["execution.protocol = \"grpc\"", "needs a container"]),
        (&with("read: [etc]"), ["plugin.yaml:4:10: execution.read.0 = \"etc\"", "absolute"]),
        (&with("read: [/a/../b]"), ["execution.read.0", "`..`"]),
        (&with("egress: [a.b]"), ["execution.egress = \"a.b\"", "network none"]),
        (&with("network: restricted\n  egress: ['http://a']"), ["plugin.yaml:5:12: execution.egress.0", "a host"]),
        (&with("env: { 'A=B': x }"), ["execution.env", "SIGIL_"]),
        (&with("env: { A: { secret: ../x } }"), ["plugin.yaml:4:13: execution.env.A", "name of a secret"]),
        (&with("env: { A: { vault: x } }"), ["execution.env.A = \"vault\"", "secret, env and file"]),
        (&with("env: { A: 1.10 }"), ["plugin.yaml:4:13: ", "in quotes"]),
        (&with("unix_sockets: maybe"), ["execution.unix_sockets", "true or false"]),
        (&with("min_level: high"), ["execution.min_level", "isolated or container"]),
        (&with("url: 'https://x/'"), ["execution.url", "protocol mcp"]),
        (&process.replace("run", "a:b"), ["plugin.yaml:6:11: tools.0.name = \"a:b\"", "1 to 62"]),
        (&process.replace("tools:\n  - name: run\n", ""), ["tools", "at least one"]),
        (
            &process.replace("- name: run", "- name: run\n  - name: RUN"),
            ["plugin.yaml:7:11: tools.1.name", "apart from capitals"],
        ),
        (
            &process.replace("name: run", "name: run\n    effect: twice"),
            ["tools.0.effect = \"twice\"", "none, idempotent or once"],
        ),
        (&process.replace("name: run", "name: run\n    output: png"), ["tools.0.output = \"png\"", "media_type"]),
        (&process.replace("name: x", "name: x\nversion: 1.2"), ["plugin.yaml:2:10: version = \"1.2\"", "semver"]),
        (&process.replace("name: x", "name: x\nprefix: a"), ["prefix = \"a\"", "empty"]),
        (&process.replace("name: x", "name: x\nexpose: [a]"), ["expose", "MCP"]),
        (&process.replace("name: x", "schema: sigil/plugin/v2\nname: x"), ["schema", "sigil/plugin/v1"]),
        (
            &with("network: host").replace("name: x", "name: x\ncapabilities: [files]"),
            ["capabilities = \"files\"", "network too"],
        ),
        ("name: x\nexecution: { protocol: mcp, url: 'ftp://x' }", ["execution.url = \"ftp://x\"", "https://HOST"]),
        ("name: x\nexecution: { protocol: mcp, url: 'https://u:p@x/' }", ["execution.url", "without a user"]),
        ("name: x\nexecution: { protocol: mcp, url: 'https://x/', tier: process }", ["execution.tier", "elsewhere"]),
        ("name: x\nexecution: { protocol: mcp, image: x }\ntools: [{name: y}]", ["tools", "itself"]),
        ("name: x\nexecution: { protocol: grpc, image: x }", ["execution.grpc_port", "port"]),
        (
            "name: x\nexecution: { image: ../relative/path }\ntools: [{name: y}]",
            ["execution.image = \"../relative/path\"", "reference"],
        ),
    ] {
        let error = error(text);
        assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{text}\n{error}");
    }
    let secret = error(&with("env: { A: { secret: x, env: y } }"));
    assert!(secret.contains("one thing"), "{secret}");
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let text = WHOLE
        .replace("  network: restricted", "  netwrok: none\n  network: restricted")
        .replace("'example.net', ", "")
        .replace("    effect: idempotent", "    efect: none")
        .replacen("schema:", "colour: red\nschema:", 1);
    let warnings = read(&text).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "plugin.yaml:1:1: unknown key `colour`",
            "plugin.yaml:14:3: unknown key `execution.netwrok`, did you mean `network`?",
            "plugin.yaml:35:5: unknown key `tools.0.efect`, did you mean `effect`?",
            "plugin.yaml:16:35: execution.egress.1: *.example.net does not match example.net: add it if it is meant",
        ]
    );
}

#[test]
fn words_of_old_yaml_stay_words() {
    let text = WHOLE.replace("name: off", "name: no").replace("LANG: C.UTF-8", "LANG: on");
    let plugin = good(&text);
    assert_eq!(plugin.tools[1].name.as_str(), "photo-tools.no");
    let Runs::Container(program, _) = &plugin.execution.runs else { panic!("a container") };
    assert_eq!(program.env["LANG"], Value::Text("on".to_owned()));
}

#[test]
fn a_few_lines_that_stand_for_many_are_refused_soon() {
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (n, letter) in ('b'..='i').enumerate() {
        let before = char::from(b'a' + u8::try_from(n).unwrap());
        let of = format!("*{before},").repeat(9);
        writeln!(bomb, "{letter}: &{letter} [{}]", of.trim_end_matches(',')).unwrap();
    }
    let began = tokio::time::Instant::now();
    assert!(error(&bomb).starts_with("plugin.yaml"));
    assert!(error(&"[".repeat(100_000)).starts_with("plugin.yaml"));
    assert!(error(&format!("name: {}", "x".repeat(MANIFEST_BYTES_MAX))).contains("1 MiB"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn every_known_key_is_taken() {
    for (section, keys) in KEYS {
        for key in keys {
            let text = match section {
                "" => format!("{key}: x\n"),
                "tools" => format!("tools:\n  - {key}: x\n"),
                other => format!("{other}:\n  {key}: x\n"),
            };
            let mut unknown = Vec::new();
            let _ = serde_saphyr::with_deserializer_from_str_with_options(&text, options(), |yaml| {
                serde_ignored::deserialize::<_, _, Raw>(yaml, |path| unknown.push(path.to_string()))
            });
            assert_eq!(unknown, [""; 0], "{text}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[a-z0-9:{}\\[\\],&*'\"\n -]{0,80}") {
        let _ = read(&text).map_err(|error| error.to_string());
    }
}

/// A manifest is read or refused in one line that begins with the file, whatever it holds.
fn sound(text: &str) {
    match read(text) {
        Ok(read) => assert!(read.plugin.tools.iter().all(|tool| tool.name.as_str().starts_with(&read.plugin.prefix))),
        Err(error) => {
            let told = error.to_string();
            assert!(told.starts_with("plugin.yaml") && !told.contains('\n'), "{told}");
        }
    }
}

/// What the fuzz target once found, and changes of a whole manifest.
#[test]
fn fuzz_manifests() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/manifest");
    for file in std::fs::read_dir(folder).unwrap() {
        sound(&String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()));
    }
    mesh_core::test_kit::fuzz("manifest", 20, &[], |case| {
        let mut mutation = mesh_core::test_kit::Mutation::new(case);
        let golden = [
            WHOLE.as_bytes().to_vec(),
            b"name: x\nexecution: { tier: process, command: [cat] }\ntools: [{ name: run }]".to_vec(),
        ];
        let mut input = mutation.pick(&golden).clone();
        mutation.bytes(&mut input, &golden);
        sound(&String::from_utf8_lossy(&input));
    });
}
