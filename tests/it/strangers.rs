//! Strangers on the local network: what they can use up, what they can learn, and how devices find each other in spite
//! of them and on networks of every kind.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::bad_input::{client, identity};
use crate::harness::{Home, PATIENCE, SOON, items, now, resident_bytes, skip, text, wait_until};
use crate::hostile_peer::{Loose, runtime};
use crate::netns::Network;

/// Set for the attacker: address of its victim, and its own.
const VICTIM: &str = "SIGIL_TEST_VICTIM";
const ATTACKER: &str = "SIGIL_TEST_ATTACKER";
/// Set by hand for the long form: the attacker then makes up 60,000 peers and 10,000 handshakes.
const LONG: &str = "SIGIL_TEST_LONG";

/// A process that ends with the test.
struct Attacker(Child);

impl Drop for Attacker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sees(home: &Home, peer: &str) -> bool {
    items(&home.get("nearby").expect(200)).iter().any(|nearby| text(nearby, "peer_id") == peer)
}

/// The first of a list of texts; empty if there is none.
fn first(of: &Value) -> String {
    of[0].as_str().unwrap_or_default().to_owned()
}

/// A DNS answer that shows a device with this instance and port.
fn made_up(instance: u64, port: u16) -> Vec<u8> {
    let label = format!("{instance:016x}");
    let name = |labels: &[&str]| {
        let mut bytes = Vec::new();
        for label in labels {
            bytes.push(u8::try_from(label.len()).expect("short"));
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes
    };
    let (service, own) = (name(&["_sigil", "_udp", "local"]), name(&[&label, "_sigil", "_udp", "local"]));
    let record = |name: &[u8], kind: u8, data: &[u8]| {
        let len = u16::try_from(data.len()).expect("short").to_be_bytes();
        [name, &[0, kind, 0, 1], &[0x7f, 0xff, 0xff, 0xff], &len, data].concat()
    };
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    packet.extend(record(&service, 12, &own));
    packet.extend(record(
        &own,
        33,
        &[&[0, 0, 0, 0], port.to_be_bytes().as_slice(), &name(&[&label, "local"])].concat(),
    ));
    packet
}

/// The program of the attacker; it runs in a namespace of its own, as a process of this very file.
#[test]
#[ignore = "the attacker of another test, which starts it"]
fn attacker() {
    let (Ok(victim), Ok(own)) = (std::env::var(VICTIM), std::env::var(ATTACKER)) else { return };
    let (victim, own): (SocketAddr, Ipv4Addr) = (victim.parse().expect("an address"), own.parse().expect("an address"));
    let is_long = std::env::var_os(LONG).is_some();
    let (peers, handshakes) = if is_long { (60_000, 10_000) } else { (20_000, 2_000) };
    let runtime = runtime();

    let requests: Vec<_> = runtime.block_on(async {
        let request = |n: u32| async move {
            let stranger = Loose::new((own, 0).into());
            let asked = stranger.ask(victim, None, &format!("stranger-{n}")).await;
            (stranger, asked)
        };
        futures_util::future::join_all((0..64).map(request)).await
    });
    println!("flooding");

    let multicast = UdpSocket::bind((own, 0)).expect("a socket");
    socket2::SockRef::from(&multicast).set_multicast_if_v4(&own).expect("it is ours");
    let shouting = std::thread::spawn(move || {
        for n in 0..peers {
            let port = 1024 + u16::try_from(n % 60_000).expect("small");
            // A full buffer loses some: there are enough.
            let _ = multicast.send_to(&made_up(n, port), (Ipv4Addr::new(224, 0, 0, 251), 5353));
            if n % 50 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let sink = UdpSocket::bind((own, 0)).expect("a socket");
    let nowhere = sink.local_addr().expect("it is bound");
    let endpoint = {
        let _guard = runtime.enter();
        quinn::Endpoint::client((own, 0).into()).expect("a socket")
    };
    let (key, certificate) = identity();
    let config = client(vec![certificate], &key);
    let mut packet = [0; 2048];
    let mut begun = Vec::new();
    for n in 0..handshakes {
        if n % 100 == 0 {
            begun.clear();
        }
        let _guard = runtime.enter();
        begun.push(endpoint.connect_with(config.clone(), nowhere, "sigil").expect("a handshake begins"));
        let len = sink.recv(&mut packet).expect("its first packet");
        let from = UdpSocket::bind((own, 0)).expect("a socket");
        from.send_to(&packet[..len], victim).expect("it goes out");
    }
    shouting.join().expect("it ends");
    drop(requests);
    println!("done");
}

#[test]
fn s11_s12_s32_strangers_keep_the_house_from_nobody() {
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(why) => return skip("s11_s12_s32_strangers_keep_the_house_from_nobody", &why),
    };
    let attic = Home::new("attic").with_only_config("").in_namespace(&network.namespace(0)).started();
    let victim: SocketAddr = first(&attic.status()["endpoints"]["quic"]).parse().expect("its first address");
    assert_eq!(victim.ip(), Ipv4Addr::new(10, 77, 0, 1), "the address of the network comes first");
    let (memory, log) = (resident_bytes(attic.pid()), attic.log().len());
    // The same without an attacker.
    let cellar = Home::new("cellar").with_only_config("").in_namespace(&network.namespace(2)).started();
    let began = now();
    assert!((200..300).contains(&cellar.join(&attic.invite()).status));
    let undisturbed = began.elapsed();
    drop(cellar);

    let mut attacker = Command::new("ip")
        .args(["netns", "exec", &network.namespace(1)])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "strangers::attacker", "--ignored", "--nocapture"])
        .env(VICTIM, victim.to_string())
        .env(ATTACKER, "10.77.0.2")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the attacker starts");
    let mut told = BufReader::new(attacker.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let attacker = Attacker(attacker);
    assert!(told.any(|line| line.contains("flooding")), "the attacker has asked to join");
    assert!(items(&attic.get("pending").expect(200)).len() <= 16, "one address has a share");

    let bureau = Home::new("bureau").with_only_config("").in_namespace(&network.namespace(2)).started();
    let bureau_id = bureau.peer_id();
    wait_until("a real device is seen among those that are made up", SOON, || sees(&attic, &bureau_id));
    let began = now();
    let joined = bureau.join(&attic.invite());
    assert!((200..300).contains(&joined.status), "{}", joined.text());
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}");
    assert!(told.any(|line| line.contains("done")), "the attacker has done all that it can");
    let (memory_after, log_after) = (resident_bytes(attic.pid()), attic.log().len());
    println!(
        "joined in {took:.1?}, {undisturbed:.1?} undisturbed; resident {memory} bytes, then {memory_after}; log {log} bytes, then {log_after}"
    );
    assert!(memory_after < memory + 16 * 1024 * 1024, "{memory} before, {memory_after} after");
    assert!(log_after < log + 1_000_000, "{log} before, {log_after} after");
    drop(attacker);
}

#[test]
fn s33_on_a_network_that_is_not_known_only_members_hear_a_name() {
    let network = match Network::new(4) {
        Ok(network) => network,
        Err(why) => return skip("s33_on_a_network_that_is_not_known_only_members_hear_a_name", &why),
    };
    // Both were set up elsewhere.
    let away = |name: &str, peer| {
        let home = Home::new(name).with_only_config("").in_namespace(&network.namespace(peer));
        std::fs::write(home.path("networks"), "").expect("the home is there");
        home.started()
    };
    let (attic, bureau) = (away("attic", 0), away("bureau", 1));
    // Two that are set up here.
    let new = |name: &str, peer| Home::new(name).with_only_config("").in_namespace(&network.namespace(peer)).started();
    let (cellar, dormer) = (new("cellar", 2), new("dormer", 3));
    let (cellar_id, dormer_id) = (cellar.peer_id(), dormer.peer_id());
    wait_until("those see each other", Duration::from_secs(5), || {
        sees(&cellar, &dormer_id) && sees(&dormer, &cellar_id)
    });
    for home in [&attic, &bureau] {
        assert_eq!(items(&home.get("nearby").expect(200)), &[] as &[Value], "at {}", home.name);
        assert!(!sees(&cellar, &home.peer_id()), "{} is seen", home.name);
    }
    // Where a device joins is known.
    assert!((200..300).contains(&bureau.join(&attic.invite()).status));
    let attic_id = attic.peer_id();
    wait_until("it is seen now", Duration::from_secs(20), || sees(&cellar, &attic_id));
}

#[test]
fn b19_devices_find_each_other_where_there_are_only_link_local_addresses() {
    let network = match Network::new(2) {
        Ok(network) => network,
        Err(why) => return skip("b19_devices_find_each_other_where_there_are_only_link_local_addresses", &why),
    };
    for peer in 0..2 {
        network.ip(peer, "-4 addr flush dev eth0");
    }
    let home = |name: &str, peer| Home::new(name).with_only_config("").in_namespace(&network.namespace(peer)).started();
    let (attic, bureau) = (home("attic", 0), home("bureau", 1));
    let (attic_id, bureau_id) = (attic.peer_id(), bureau.peer_id());
    wait_until("they see each other", Duration::from_secs(8), || sees(&attic, &bureau_id) && sees(&bureau, &attic_id));
    let address = first(&items(&bureau.get("nearby").expect(200))[0]["addresses"]);
    assert!(address.starts_with("[fe80::") && address.contains("%eth0]:"), "{address}");
    let checks = attic.get("doctor").expect(200);
    assert!(!checks.to_string().contains("multicast"), "{checks}");

    let invite = attic.cli(&["invite", "--json"]).json(0);
    assert!(invite["addresses"][0].as_str().is_some_and(|first| first.starts_with("[fe80::")), "{invite}");
    assert_eq!(invite["warnings"], serde_json::json!([]));
    let joined = bureau.join(text(&invite, "code"));
    assert!((200..300).contains(&joined.status), "{}", joined.text());
    // And by the address as it is shown.
    let asked = bureau.cli(&["join", "--address", &address, "--force", "--json", "--yes", &attic.check_words()]);
    assert!(asked.code == 0, "{asked:?}");
}

#[test]
fn b05_b19_l01_the_addresses_of_a_code_and_of_the_status_are_todays_and_useful() {
    let network = match Network::new(2) {
        Ok(network) => network,
        Err(why) => {
            return skip("b05_b19_l01_the_addresses_of_a_code_and_of_the_status_are_todays_and_useful", &why);
        }
    };
    network.ip(0, "link set eth0 down");
    network.ip(0, "-4 addr flush dev eth0");
    let attic = Home::new("attic").in_namespace(&network.namespace(0)).started();
    let bureau = Home::new("bureau").in_namespace(&network.namespace(1)).started();
    let invite = attic.cli(&["invite", "--json"]).json(0);
    assert!(invite["warnings"][0].as_str().is_some_and(|told| told.contains("no network")), "{invite}");
    let refused = bureau.join(text(&invite, "code"));
    assert!(refused.text().contains("only loopback addresses"), "{}", refused.text());

    for n in 17..32 {
        network.ip(0, &format!("link add br-{n} type bridge"));
        network.ip(0, &format!("addr add 172.{n}.0.1/16 dev br-{n}"));
        network.ip(0, &format!("link set br-{n} up"));
    }
    network.ip(0, "link add br-w type bridge");
    network.ip(0, "addr add 10.8.0.1/24 dev br-w");
    network.ip(0, "link set br-w up");
    network.ip(0, "link set eth0 up");
    network.ip(0, "addr add 10.77.0.1/24 dev eth0");
    let lan = |address: &str| address.starts_with("10.77.0.1:");
    wait_until("the status shows it", PATIENCE, || lan(&first(&attic.status()["endpoints"]["quic"])));
    wait_until("endpoints.json shows it", PATIENCE, || {
        let text = std::fs::read_to_string(attic.path("run/endpoints.json")).unwrap_or_default();
        serde_json::from_str::<Value>(&text).is_ok_and(|endpoints| lan(&first(&endpoints["quic"])))
    });
    let invite = attic.cli(&["invite", "--json"]).json(0);
    assert!(lan(&first(&invite["addresses"])), "{invite}");
    assert!(invite["warnings"][0].as_str().is_some_and(|told| told.contains("did not fit")), "{invite}");
    let joined = bureau.join(text(&invite, "code"));
    assert!((200..300).contains(&joined.status), "{}", joined.text());
}
