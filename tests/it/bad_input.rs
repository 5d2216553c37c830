//! Whatever is sent, the answer is a typed, explained error, and nothing else is disturbed. What takes a
//! peer's own keys and frames is in `hostile_peer.rs`.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};

use crate::harness::{Home, Mesh, PATIENCE, Response, items, now, resident_bytes, text, wait_until};

/// How much more memory an agent may hold after all that was thrown at it.
const GROWTH_MAX: u64 = 64 * 1024 * 1024;

/// The home still does what it is for.
#[track_caller]
pub(crate) fn assert_works(home: &Home) {
    let id = home.call(&home.name, "device.info", 60);
    let call = home.wait_ended(&id, PATIENCE);
    assert_eq!(call["state"], "done", "{call}");
}

/// Runs something at an agent, which must neither grow by more than the limit nor stop working.
#[track_caller]
pub(crate) fn within_bounds(home: &Home, what: impl FnOnce()) {
    assert_works(home);
    let before = resident_bytes(home.pid());
    what();
    assert_works(home);
    wait_until("its memory comes back", PATIENCE, || resident_bytes(home.pid()) < before + GROWTH_MAX);
    assert!(!home.log().contains("panicked"), "{}", home.log_tail());
}

#[test]
fn a9_names_that_are_no_names_are_refused_and_explained() {
    let home = Home::new("attic").started();
    let long = "a".repeat(300);
    for name in ["", ":", "a:b", "a/b", "a\0b", "../etc", "é", "日本", long.as_str()] {
        let bodies = [
            json!({ "node": name, "tool": "append", "arguments": {} }),
            json!({ "node": "attic", "tool": name, "arguments": {} }),
        ];
        for body in bodies {
            let answer = home.post("calls", &body);
            assert!([404, 422].contains(&answer.status), "{body}: {}", answer.text());
            let problem = answer.problem(answer.status);
            assert!(text(&problem, "detail").len() < 500, "an error does not repeat what is too long");
        }
    }
    for name in ["%00", "a%2Fb", "%C3%A9", "%FF%FE", long.as_str()] {
        let answer = home.get(&format!("nodes/{name}"));
        assert!([400, 404, 422].contains(&answer.status), "{name}: {}", answer.text());
        answer.problem(answer.status);
    }
    let fresh = Home::new("attic");
    for name in ["a:b", "Ä", "-a", long.as_str()] {
        let refused = fresh.cli(&["up", "--name", name]);
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stderr.matches("it must be").count() <= 1, "{refused:?}");
        assert!(refused.stderr.len() < 500, "{refused:?}");
    }
    assert_works(&home);
}

#[test]
fn a9_arguments_that_are_too_large_too_deep_or_no_json_are_refused() {
    let home = Home::new("attic").with_tool("count", "wc -c", "none").started();
    within_bounds(&home, || {
        let send = |body: &[u8]| home.ask("POST", "/api/v1/calls", &[("Content-Type", "application/json")], body);
        let with = |arguments: &str| {
            send(format!("{{\"node\":\"attic\",\"tool\":\"count\",\"arguments\":{arguments}}}").as_bytes())
        };
        let refused = |answer: Response, allowed: &[u16]| {
            assert!(allowed.contains(&answer.status), "{} {}", answer.status, answer.text());
            answer.problem(answer.status);
        };
        refused(with(&format!("{{\"a\":\"{}\"}}", "x".repeat(1024 * 1024))), &[413, 422]);
        refused(with(&format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000))), &[400, 422]);
        refused(with("not json"), &[400, 422]);
        refused(send(b"\xff\xfe{}"), &[400, 422]);
        refused(send(b""), &[400, 422]);
        for (field, value) in
            [("ttl_s", json!(-1)), ("ttl_s", json!(604_801)), ("timeout_s", json!("soon")), ("effect", json!("twice"))]
        {
            let mut body = json!({ "node": "attic", "tool": "count", "arguments": {} });
            body[field] = value;
            refused(send(body.to_string().as_bytes()), &[400, 422]);
        }
        // As large as may be.
        let large = json!({ "a": "x".repeat(1024 * 1024 - 64) });
        let call = home.post("calls", &json!({ "node": "attic", "tool": "count", "arguments": large })).expect(202);
        assert_eq!(home.wait_ended(text(&call, "id"), PATIENCE)["state"], "done");
    });
}

#[test]
fn a9_output_that_is_not_text_or_too_large_is_handled() {
    let homes = vec![
        Home::new("attic"),
        Home::new("bureau")
            .with_tool("binary", "printf 'a\\377\\376\\000b'", "none")
            .with_tool("flood", "head -c 100000000 /dev/zero", "none")
            .with_tool("large", "head -c 5000000 /dev/zero | tr '\\0' x", "none")
            .with_tool("chatter", "yes error | head -c 50000000 >&2", "none"),
    ];
    let mesh = Mesh::of(homes);
    within_bounds(&mesh.homes[1], || {
        let run = |tool: &str| {
            let id = mesh.homes[0].call("bureau", tool, 120);
            mesh.homes[0].wait_ended(&id, Duration::from_mins(1))
        };
        let binary = run("binary");
        assert_eq!(binary["state"], "done", "{binary}");
        let raw = mesh.homes[0].get(&format!("calls/{}/result", text(&binary, "id")));
        assert_eq!(raw.body, b"a\xff\xfe\x00b");
        let large = run("large");
        assert_eq!(large["state"], "done", "{large}");
        let raw = mesh.homes[0].get(&format!("calls/{}/result", text(&large, "id")));
        assert_eq!((raw.status, raw.body.len()), (200, 5_000_000));
        let flood = run("flood");
        assert_eq!(flood["state"], "failed", "over a limit: {}", text(&flood, "reason"));
        assert!(!text(&flood, "reason").is_empty());
        let chatter = run("chatter");
        assert_eq!(chatter["state"], "done", "{}", text(&chatter, "reason"));
    });
}

#[test]
fn a9_garbage_at_the_mesh_port_is_ignored() {
    let home = Home::new("attic").started();
    within_bounds(&home, || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000_usize {
            let len = usize::try_from(random() % 1400).expect("small");
            let mut packet: Vec<u8> = (0..len).map(|_| random().to_le_bytes()[0]).collect();
            // Every other one looks like the first packet of a QUIC handshake.
            if round % 2 == 0 && packet.len() > 5 {
                packet[0] |= 0xc0;
                packet[1..5].copy_from_slice(&[0, 0, 0, 1]);
            }
            socket.send_to(&packet, home.quic_address()).expect("loopback takes it");
        }
    });
}

#[test]
fn a9_a_certificate_without_the_proof_of_its_key_is_refused() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let runtime = runtime();
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
        // Bureau shows its certificate to whoever dials it.
        let (own, shown) = identity();
        let dialled = endpoint
            .connect_with(client(vec![shown.clone()], &own), mesh.homes[1].quic_address(), "sigil")
            .expect("a handshake begins")
            .await
            .expect("bureau answers");
        let stolen = dialled
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .expect("bureau showed a certificate");
        assert_ne!(stolen[0], shown);

        // With it, but without its key, nobody gets into attic.
        let connecting = endpoint
            .connect_with(client(*stolen, &own), mesh.homes[0].quic_address(), "sigil")
            .expect("a handshake begins");
        let refused = match connecting.await {
            Err(error) => error,
            // The client is done before the server has looked at its proof: the refusal comes as a close.
            Ok(connection) => {
                tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.expect("refused")
            }
        };
        assert!(
            matches!(refused, quinn::ConnectionError::ConnectionClosed(_)),
            "refused by TLS, not by a rule above it: {refused:?}"
        );
    });
    assert_eq!(mesh.homes[0].node_state("bureau").as_deref(), Some("online"), "the real one is not disturbed");
    assert_works(&mesh.homes[0]);
}

#[test]
fn a9_a_thousand_strangers_do_not_disturb() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    within_bounds(&mesh.homes[0], || {
        let runtime = runtime();
        let started = now();
        runtime.block_on(async {
            let address = mesh.homes[0].quic_address();
            for _ in 0..20 {
                let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
                let mut asking = Vec::new();
                for _ in 0..50 {
                    let (key, certificate) = identity();
                    let connecting =
                        endpoint.connect_with(client(vec![certificate], &key), address, "sigil").expect("it begins");
                    asking.push(async move {
                        // Each says something that is no greeting. Refused or ignored: both are right.
                        let connection = connecting.await.ok()?;
                        let (mut send, _) = connection.open_bi().await.ok()?;
                        send.write_all(&[0xff; 64]).await.ok()
                    });
                }
                let all = futures_util::future::join_all(asking);
                let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
                endpoint.close(0_u32.into(), b"");
            }
        });
        eprintln!("1,000 strangers took {:?}", started.elapsed());
        let pending = mesh.homes[0].get("pending").expect(200);
        assert!(items(&pending).is_empty(), "none of them asked properly: {pending}");
        let id = mesh.homes[1].call("attic", "append", 60);
        assert_eq!(mesh.homes[1].wait_ended(&id, PATIENCE)["state"], "done");
    });
}

#[test]
fn a9_a_stranger_who_asks_may_be_turned_away() {
    let (attic, stranger) = (Home::new("attic").started(), Home::new("bureau").started());
    let asked = stranger.ask_to_join(&attic);
    assert_eq!(asked.status, 202, "{}", asked.text());
    let mut waiting = Value::Null;
    wait_until("it is pending", PATIENCE, || {
        waiting = items(&attic.get("pending").expect(200)).first().cloned().unwrap_or_default();
        text(&waiting, "peer_id") == stranger.peer_id()
    });
    let rejected = attic.post(&format!("pending/{}/reject", text(&waiting, "peer_id")), &json!({}));
    assert!((200..300).contains(&rejected.status), "{}", rejected.text());
    wait_until("nobody is pending", PATIENCE, || items(&attic.get("pending").expect(200)).is_empty());
    assert_eq!(attic.nodes().len(), 1);
    let unknown = attic.post(&format!("pending/{}/approve", text(&waiting, "peer_id")), &json!({})).problem(404);
    assert_eq!(unknown["code"], "unknown_pending");
}

// --- a stranger's end of QUIC ---

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A fresh key and its self-signed certificate.
pub(crate) fn identity() -> (PrivatePkcs8KeyDer<'static>, CertificateDer<'static>) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let params = rcgen::CertificateParams::new(vec!["sigil".to_owned()]).expect("a plain name");
    let certificate = params.self_signed(&pair).expect("a certificate").der().clone();
    (PrivatePkcs8KeyDer::from(pair.serialize_der()), certificate)
}

/// Shows `chain` and signs with `key`, whether they belong together or not.
pub(crate) fn client(chain: Vec<CertificateDer<'static>>, key: &PrivatePkcs8KeyDer<'static>) -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(key.clone_key())).expect("an Ed25519 key");
    let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakeAnyone))
        .with_client_cert_resolver(Arc::new(certified));
    config.alpn_protocols = vec![b"sigil/3".to_vec()];
    let config: quinn::crypto::rustls::QuicClientConfig = config.try_into().expect("it has the suite that QUIC needs");
    quinn::ClientConfig::new(Arc::new(config))
}

/// The attacker's verifier: it does not care whom it talks to.
#[derive(Debug)]
struct TakeAnyone;

impl ServerCertVerifier for TakeAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
