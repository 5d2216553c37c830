//! The proxy between a program and an outside that is ours.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_core::test_kit::{Mutation, fuzz};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::ledger::{Behalf, Told};
use super::proxy::{Bounds, Gate, Network, Outside, Pass, Proxy};
use super::target::hello;
use crate::tasks::TaskGroup;

/// An outside in which all addresses lead to one server, and names to what a test says, each time something else.
#[derive(Clone, Default)]
struct World {
    server: Option<SocketAddr>,
    names: Arc<Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>>,
    looked_up: Arc<Mutex<Vec<String>>>,
    connected: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Outside for World {
    fn resolve(&self, name: &str) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
        self.looked_up.lock().unwrap().push(name.to_owned());
        let mut names = self.names.lock().unwrap();
        let answer = match names.get_mut(name) {
            Some(answers) if answers.len() > 1 => Ok(answers.remove(0)),
            Some(answers) => Ok(answers[0].clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        Box::pin(std::future::ready(answer))
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        self.connected.lock().unwrap().push(to);
        let server = self.server;
        Box::pin(async move { TcpStream::connect(server.ok_or(io::ErrorKind::ConnectionRefused)?).await })
    }

    fn own(&self) -> Vec<IpAddr> {
        vec!["8.8.4.4".parse().unwrap()]
    }
}

struct Bench {
    world: World,
    network: Network,
    told: mpsc::Receiver<Told>,
    _gate: Gate,
    _tasks: TaskGroup,
}

const RULES: [&str; 4] = ["api.example.org", "api.example.org:80", "127.0.0.1:8123", "lan:nas.home:5000"];

impl Bench {
    fn of(world: World, bounds: Bounds) -> Self {
        let tasks = TaskGroup::default();
        let (proxy, told) = Proxy::with(Box::new(world.clone()), bounds, &tasks);
        let rules = RULES.iter().map(|rule| rule.parse().unwrap()).collect();
        let behalf = Behalf { provider: "photo".to_owned(), tool: Some("photo.get".to_owned()), call: None };
        let (gate, network) = Network::of(&proxy, Pass { rules, behalf });
        Self { world, network, told, _gate: gate, _tasks: tasks }
    }

    /// One with a server that answers each connection with what it has read of it until the end of a head, and then what comes.
    async fn with_server(bounds: Bounds) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut chunk = vec![0; 65_536];
                    let len = stream.read(&mut chunk).await.unwrap_or(0);
                    let said = String::from_utf8_lossy(&chunk[..len]).into_owned();
                    if said.contains(" HTTP/1.1\r\n") {
                        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nUpgrade: h2c\r\nContent-Length";
                        let _ = stream.write_all(format!("{head}: {}\r\n\r\n{said}", said.len()).as_bytes()).await;
                    } else {
                        let _ = stream.write_all(&chunk[..len]).await;
                        let (mut read, mut write) = stream.split();
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    }
                });
            }
        });
        let names = [("api.example.org", vec![vec!["93.184.216.34"]]), ("nas.home", vec![vec!["192.168.1.7"]])];
        let bench = Self::of(World { server: Some(server), ..World::default() }, bounds);
        for (name, answers) in names {
            bench.leads(name, answers);
        }
        bench
    }

    fn leads(&self, name: &str, answers: Vec<Vec<&str>>) {
        let answers = answers.into_iter().map(|addresses| addresses.iter().map(|text| text.parse().unwrap()).collect());
        self.world.names.lock().unwrap().insert(name.to_owned(), answers.collect());
    }

    /// What comes back for what is said, until the end.
    async fn say(&self, request: &[u8]) -> String {
        let (mut ours, theirs) = duplex(1 << 16);
        let network = self.network.clone();
        let served = tokio::spawn(async move { network.converse(theirs).await });
        ours.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(5), ours.read_to_end(&mut answer)).await.expect("it comes to an end");
        served.await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn told(&mut self) -> Vec<(String, u16, bool, String)> {
        let mut all = Vec::new();
        while let Ok(Told { host, port, allowed, why, .. }) = self.told.try_recv() {
            all.push((host, port, allowed, why));
        }
        all
    }
}

fn get(target: &str, host: &str, more: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").into_bytes()
}

#[tokio::test]
async fn what_a_rule_names_is_asked_for_at_the_address_that_was_judged() {
    let mut bench = Bench::with_server(Bounds::USUAL).await;
    // Whoever answers for the name means something else the next time.
    bench.leads("api.example.org", vec![vec!["93.184.216.34"], vec!["127.0.0.1"]]);
    let more = "Proxy-Authorization: x\r\nConnection: upgrade, x-own\r\nUpgrade: h2c\r\nX-Own: 1\r\nX-Other: 2\r\n";
    let answer = bench.say(&get("http://api.example.org/a?b=c", "API.example.org", more)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && !answer.contains("\r\nupgrade"), "{answer}");
    assert!(answer.contains("GET /a?b=c HTTP/1.1\r\n") && answer.contains("host: api.example.org\r\n"), "{answer}");
    assert!(answer.contains("x-other: 2"), "{answer}");
    for gone in ["proxy-authorization", "upgrade", "x-own"] {
        assert!(!answer.to_lowercase().contains(&format!("\r\n{gone}:")), "{gone}: {answer}");
    }
    assert_eq!(*bench.world.connected.lock().unwrap(), ["93.184.216.34:80".parse::<SocketAddr>().unwrap()]);
    assert_eq!(bench.world.looked_up.lock().unwrap().len(), 1, "it is looked up once");
    let told = bench.told.recv().await.unwrap();
    assert!(told.allowed && told.sent > 50 && told.received > 100, "{told:?}");
    assert_eq!((told.host.as_str(), told.port, told.why.as_str()), ("api.example.org", 80, "api.example.org:80"));
    let refused = bench.say(&get("http://api.example.org/", "api.example.org", "")).await;
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("loopback"), "{refused}");
    assert_eq!(bench.told(), [("api.example.org".to_owned(), 80, false, "address".to_owned())]);
    assert_eq!(bench.world.connected.lock().unwrap().len(), 1);
    // An address that a rule names, and a name of this house.
    for (target, to) in [("127.0.0.1:8123", "127.0.0.1:8123"), ("nas.home:5000", "192.168.1.7:5000")] {
        let answer = bench.say(&get(&format!("http://{target}/"), target, "")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(bench.world.connected.lock().unwrap().last().unwrap().to_string(), to);
    }
}

#[tokio::test]
async fn a_tunnel_is_for_the_host_that_it_names() {
    let mut bench = Bench::with_server(Bounds::USUAL).await;
    let tunnel = |host: &str, words: &[u8]| {
        let mut said = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
        said.extend(words);
        said
    };
    // All that goes in comes back.
    let through = async |bench: &Bench, host: &str, words: Vec<u8>| {
        let (mut ours, theirs) = duplex(1 << 16);
        let network = bench.network.clone();
        let served = tokio::spawn(async move { network.converse(theirs).await });
        ours.write_all(&tunnel(host, &[])).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(ours.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        ours.write_all(&words).await.unwrap();
        let mut back = vec![0; words.len()];
        let whole = timeout(Duration::from_secs(5), ours.read_exact(&mut back)).await.unwrap().is_ok();
        drop(ours);
        served.await.unwrap();
        whole && back == words
    };
    assert!(through(&bench, "api.example.org:443", hello("api.example.org")).await);
    let told = bench.told.recv().await.unwrap();
    assert!(told.allowed && told.sent == told.received && told.sent > 100, "{told:?}");
    for (host, words) in [
        ("api.example.org:443", hello("evil.example")),
        ("api.example.org:443", b"GET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n".to_vec()),
        ("api.example.org:443", b"SSH-2.0-x\r\n".to_vec()),
    ] {
        assert!(!through(&bench, host, words).await);
        let told = bench.told.recv().await.unwrap();
        assert_eq!((told.allowed, told.why.as_str(), told.sent), (false, "other_server", 0), "{told:?}");
        bench.told.close();
        let fresh = Bench::with_server(Bounds::USUAL).await;
        bench = fresh;
    }
    // At other ports anything may be said.
    assert!(through(&bench, "127.0.0.1:8123", b"\x00\x01binary".to_vec()).await);
    // Nothing of what comes with the request is lost.
    let (mut ours, theirs) = duplex(1 << 16);
    let network = bench.network.clone();
    let served = tokio::spawn(async move { network.converse(theirs).await });
    ours.write_all(&tunnel("api.example.org:80", b"ping")).await.unwrap();
    ours.shutdown().await.unwrap();
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    served.await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"ping"), "{}", String::from_utf8_lossy(&answer));
}

/// A body with two ends: whoever sees the other one would take the rest of it for a request.
#[tokio::test]
async fn nothing_of_a_request_is_taken_for_another() {
    let bench = Bench::with_server(Bounds::USUAL).await;
    let more = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let mut request = get("http://api.example.org/", "api.example.org", more);
    request.extend(b"0\r\n\r\nGET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    let answer = bench.say(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("evil"), "{answer}");
    assert_eq!(answer.to_lowercase().matches("content-length: 4\r\n").count(), 0, "{answer}");
    assert_eq!(bench.world.connected.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn whatever_else_is_asked_for_is_refused_and_told() {
    let mut bench = Bench::with_server(Bounds::USUAL).await;
    bench.leads("mixed.home", vec![vec!["192.168.1.7", "127.0.0.1"]]);
    let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes();
    for (request, why) in [
        (connect("93.184.216.34:443"), "not_listed"),
        (connect("api.example.org:22"), "not_listed"),
        (connect("evil.example:443"), "not_listed"),
        (connect("127.0.0.1:22"), "not_listed"),
        (connect("[::1]:8123"), "not_listed"),
        (connect("[::ffff:127.0.0.1]:8123"), "not_listed"),
        (connect("2130706433:8123"), "host_form"),
        (connect("0x7f000001:8123"), "host_form"),
        (connect("0177.0.0.1:8123"), "host_form"),
        (connect("127.1:8123"), "host_form"),
        (connect("api.example.org.:443"), "host_form"),
        (connect("api.example.org"), "port"),
        (get("http://api.example.org@evil.example/", "evil.example", ""), "user_info"),
        (get("http://user:api.example.org@127.0.0.1:8123/", "127.0.0.1:8123", ""), "user_info"),
        (get("http://api.example.org/", "evil.example", ""), "host_header"),
        (get("http://api.example.org/", "api.example.org\r\nHost: evil.example", ""), "host_header"),
        (get("https://api.example.org/", "api.example.org", ""), "scheme"),
        (get("/", "api.example.org", ""), "no_target"),
        (b"GET http://api%2eexample.org/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n".to_vec(), "malformed"),
        (b"GET http://api.example.org/ HTTP/1.1\r\nHost: api.example.org\r\n folded: x\r\n\r\n".to_vec(), "malformed"),
        (b"\x16\x03\x01\x02\x00\x01".to_vec(), "malformed"),
        (b"\x05\x01\x00".to_vec(), "malformed"),
        (get("http://api.example.org/", "api.example.org", &format!("X: {}\r\n", "y".repeat(20_000))), "malformed"),
    ] {
        let answer = bench.say(&request).await;
        let request = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        assert!(!answer.starts_with("HTTP/1.1 2"), "{request}: {answer}");
        let told = bench.told();
        assert!(told.last().is_some_and(|(_, _, allowed, said)| !allowed && said == why), "{request}: {told:?}");
        let (world, told) =
            (bench.world.clone(), std::mem::replace(&mut bench, Bench::with_server(Bounds::USUAL).await));
        drop(told);
        assert_eq!(*world.connected.lock().unwrap(), [], "{request}");
        assert_eq!(*world.looked_up.lock().unwrap(), Vec::<String>::new(), "no name that is not allowed is looked up");
    }
    let unknown = Bench::of(World::default(), Bounds::USUAL);
    assert!(unknown.say(&connect("api.example.org:443")).await.starts_with("HTTP/1.1 502"));
}

#[tokio::test]
async fn what_stays_silent_and_what_is_too_much_is_cut() {
    let short = Duration::from_millis(200);
    let bounds = Bounds { head_time: short, idle: short, connections: 2, ..Bounds::USUAL };
    let mut bench = Bench::with_server(bounds).await;
    // A head that does not come to its end.
    assert_eq!(bench.say(b"CONNECT api.exa").await, "");
    // A tunnel in which nothing is said.
    let (mut ours, theirs) = duplex(1 << 16);
    let network = bench.network.clone();
    let served = tokio::spawn(async move { network.converse(theirs).await });
    ours.write_all(b"CONNECT 127.0.0.1:8123 HTTP/1.1\r\nHost: 127.0.0.1:8123\r\n\r\n").await.unwrap();
    timeout(Duration::from_secs(5), served).await.expect("it is cut").unwrap();
    let told = bench.told.recv().await.unwrap();
    assert!(told.allowed && told.host == "127.0.0.1", "{told:?}");

    // Two at once and no third; and all of them are cut when their network goes.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let Bench { network, mut told, _gate: gate, _tasks, world: _world } =
        Bench::with_server(Bounds { connections: 2, ..Bounds::USUAL }).await;
    let serving = tokio::spawn(network.serve(listener));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"CONNECT 127.0.0.1:8123 HTTP/1.1\r\nHost: 127.0.0.1:8123\r\n\r\n").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        open.push(stream);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    assert!(third.read_u8().await.is_err());
    assert_eq!(told.recv().await.unwrap().why, "too_many");
    drop(gate);
    for mut stream in open {
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("it is cut");
    }
    assert_eq!(told.recv().await.map(|told| (told.allowed, told.count)), Some((true, 1)), "and told of");
    serving.abort();
}

/// Whatever a program says: nothing is reached but what a rule names, and each conversation comes to its end.
#[test]
fn fuzz_what_a_program_says_to_the_proxy() {
    let golden: Vec<Vec<u8>> = [
        &get("http://api.example.org/a?b=c", "api.example.org", "Content-Length: 3\r\nConnection: x\r\n")[..],
        b"POST http://api.example.org/ HTTP/1.1\r\nHost: api.example.org\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"CONNECT api.example.org:443 HTTP/1.1\r\nHost: api.example.org:443\r\n\r\n",
        b"CONNECT 127.0.0.1:8123 HTTP/1.0\r\n\r\nping",
        b"GET http://evil.example@api.example.org:80/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        b"CONNECT [::ffff:127.0.0.1]:8123 HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    .iter()
    .map(|bytes| bytes.to_vec())
    .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let _inside = runtime.enter();
    // Nobody answers outside; what counts is who is asked.
    let bench = Bench::of(World::default(), Bounds::USUAL);
    for name in ["api.example.org", "evil.example"] {
        bench.leads(name, vec![vec!["93.184.216.34"]]);
    }
    fuzz("proxy", 1_000, &[], |case| {
        let mut mutation = Mutation::new(case);
        let mut bytes = mutation.pick(&golden).clone();
        mutation.bytes(&mut bytes, &golden);
        let (mut ours, theirs) = duplex(1 << 12);
        let answer = runtime.block_on(async {
            let mut answer = Vec::new();
            let said = async {
                let (mut read, mut write) = tokio::io::split(&mut ours);
                let say = async {
                    let _ = write.write_all(&bytes).await;
                    let _ = write.shutdown().await;
                };
                let _ = tokio::join!(say, read.read_to_end(&mut answer));
            };
            tokio::join!(bench.network.converse(theirs), said);
            answer
        });
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&bytes));
        for to in bench.world.connected.lock().unwrap().drain(..) {
            let meant = ["93.184.216.34:80", "93.184.216.34:443", "127.0.0.1:8123"];
            assert!(meant.contains(&to.to_string().as_str()), "{to}: {}", String::from_utf8_lossy(&bytes));
        }
        for name in bench.world.looked_up.lock().unwrap().drain(..) {
            assert_eq!(name, "api.example.org", "{}", String::from_utf8_lossy(&bytes));
        }
    });
}
