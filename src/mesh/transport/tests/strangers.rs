//! Peers that are not yet known: those that show a key that they do not hold, and those that ask to join.

use super::*;

#[tokio::test]
async fn another_key_at_the_address_is_refused() {
    let (mut a, b, expected) = (Peer::start(), Peer::start(), Peer::start());
    let member = Member {
        key: expected.key.public_key(),
        addresses: vec![b.address()],
        services: None,
        relays: Vec::new(),
        leaving: false,
        owner: true,
        node: None,
    };
    a.links.set_members([(expected.id(), member)].into());
    b.links.set_members([a.member()].into());
    let request = request(None);
    let error = a.links.join(&[b.address()], Some(expected.id()), &request).await.unwrap_err();
    assert_eq!(error, JoinDialError::Stranger { address: b.address(), peer: b.id() });
    assert!(a.links.infos().is_empty() && a.events.try_recv().is_err());
}

/// A certificate of `shown`, with signatures by `signer`.
fn forged(shown: &DeviceKey, signer: &DeviceKey) -> Arc<SingleCertAndKey> {
    let pkcs8 = PrivatePkcs8KeyDer::from(shown.pkcs8_der().to_vec());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["sigil".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivatePkcs8KeyDer::from(signer.pkcs8_der().to_vec());
    let key = rustls::crypto::ring::sign::any_eddsa_type(&key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client that shows `shown`'s certificate and signs with `signer`'s key.
fn forged_client(peer: &Peer, shown: &DeviceKey, signer: &DeviceKey) -> quinn::ClientConfig {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(peer.links.shared.credentials.verifier(None))
        .with_client_cert_resolver(forged(shown, signer));
    tls.alpn_protocols = vec![tls::ALPN.to_vec()];
    quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap()))
}

#[tokio::test]
async fn a_client_that_does_not_hold_the_key_of_its_certificate_is_refused() {
    let (mut a, thief) = (Peer::start(), Peer::start());
    let victim = DeviceKey::load_or_create(tempfile::tempdir().unwrap().path()).unwrap();
    let member = Member {
        key: victim.public_key(),
        addresses: Vec::new(),
        services: None,
        relays: Vec::new(),
        leaving: false,
        owner: true,
        node: None,
    };
    a.links.set_members([(victim.peer_id(), member)].into());
    let endpoint = thief.endpoint();
    for (signer, honest) in [(&thief.key, false), (&victim, true)] {
        let config = forged_client(&thief, &victim, signer);
        let connection = endpoint.connect_with(config, a.socket(), "sigil").unwrap().await.unwrap();
        let hello = async {
            let (mut send, mut recv) = stream::open(&connection, Tag::Mesh).await?;
            send.write_all(&[0; 8]).await.map_err(|_| stream::StreamError::Broken)?;
            stream::read_array::<8>(&mut recv).await
        };
        assert_eq!(hello.await.is_ok(), honest);
        if !honest {
            let why = connection.closed().await;
            assert!(matches!(why, quinn::ConnectionError::ConnectionClosed(_)), "{why}");
            assert!(a.links.infos().is_empty() && a.events.try_recv().is_err());
        }
    }
    // The same with the right key gets in, so the refusal above was for the signature and nothing else.
    a.wait_up(victim.peer_id()).await;
}

#[tokio::test]
async fn a_server_that_does_not_hold_the_key_of_its_certificate_is_refused() {
    let a = Peer::start();
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [victim, thief] = homes.each_ref().map(|home| DeviceKey::load_or_create(home.path()).unwrap());
    for (signer, honest) in [(&thief, false), (&victim, true)] {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(a.links.shared.credentials.verifier(None))
            .with_cert_resolver(forged(&victim, signer));
        tls.alpn_protocols = vec![tls::ALPN.to_vec()];
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let server = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = server.local_addr().unwrap();
        let serving = server.clone();
        a.tasks.spawn(async move {
            while let Some(incoming) = serving.accept().await {
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            }
        });
        let raced = dial::race(&a.links.shared, &[address.into()], Some(victim.peer_id())).await;
        assert_eq!(raced.is_ok(), honest);
    }
}

#[tokio::test]
async fn a_stranger_can_only_ask_to_join() {
    let (mut a, stranger) = (Peer::start(), Peer::start());
    for tag in [Tag::Mesh, Tag::Service(ServiceId::NODE), Tag::Blob] {
        let connection = stranger.raw(&a).await;
        let _streams = stream::open(&connection, tag).await.unwrap();
        let why = timeout(LONG, connection.closed()).await.unwrap();
        let quinn::ConnectionError::ApplicationClosed(close) = why else { panic!("{why}") };
        assert_eq!(close.error_code, quinn::VarInt::from_u32(Code::Revoked as u32));
    }
    // A second stream is never opened, and nothing came of all that.
    let connection = stranger.raw(&a).await;
    let _first = stream::open(&connection, Tag::Join).await.unwrap();
    assert!(timeout(Duration::from_millis(200), connection.open_bi()).await.is_err());
    assert!(a.events.try_recv().is_err() && a.links.infos().is_empty());
    let conversation = stranger.links.join(&[a.address()], Some(a.id()), &request(None)).await.unwrap();
    let attempt = a.wait(|event| if let LinkEvent::JoinAttempt(attempt) = event { Some(attempt) } else { None }).await;
    assert_eq!((attempt.peer, attempt.key), (stranger.id(), stranger.key.public_key()));
    assert_eq!((attempt.underlay, attempt.address), (UnderlayKind::Udp, stranger.socket()));
    drop(conversation);
    timeout(LONG, attempt.answers.closed()).await.unwrap();
}

#[tokio::test]
async fn a_full_door_says_so_and_whoever_waits_for_a_person_is_not_in_the_way() {
    let mut a = Peer::start();
    let (asked, at) = (request(None), [a.address()]);
    let mut guests = Vec::new();
    let mut attempts = Vec::new();
    for _ in 0..8 {
        let guest = Peer::start();
        let conversation = guest.links.join(&at, None, &asked).await.unwrap();
        attempts
            .push(a.wait(|event| if let LinkEvent::JoinAttempt(attempt) = event { Some(attempt) } else { None }).await);
        guests.push((guest, conversation));
    }
    let one_more = Peer::start();
    match one_more.links.join(&at, None, &asked).await {
        Ok(mut conversation) => {
            let step = timeout(LONG, conversation.answers.recv()).await.unwrap();
            assert!(matches!(&step, Some(JoinAnswer::Refused { code: RefusalCode::TooMany, .. })), "{step:?}");
        }
        Err(error) => assert_eq!(error, JoinDialError::Busy { address: a.address() }),
    }
    // One of them is told to wait for a person: there is room again.
    attempts[0].answers.try_send(JoinAnswer::Waiting { node_id: "attic".parse().unwrap() }).unwrap();
    let step = timeout(LONG, guests[0].1.answers.recv()).await.unwrap();
    assert!(matches!(step, Some(JoinAnswer::Waiting { .. })), "{step:?}");
    let _conversation = one_more.links.join(&at, None, &asked).await.unwrap();
    let attempt = a.wait(|event| if let LinkEvent::JoinAttempt(attempt) = event { Some(attempt) } else { None }).await;
    assert_eq!(attempt.peer, one_more.id());
}

#[tokio::test]
async fn a_join_waits_and_is_then_welcomed() {
    let (mut a, stranger) = (Peer::start(), Peer::start());
    let nobody: Address = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap().into()
    };
    // An address where nobody is does not hold up the one where someone is.
    let asked = request(Some([9; 16]));
    let mut conversation = stranger.links.join(&[nobody, a.address()], Some(a.id()), &asked).await.unwrap();
    assert_eq!((conversation.peer, conversation.address), (a.id(), a.address()));
    let attempt = a.wait(|event| if let LinkEvent::JoinAttempt(attempt) = event { Some(attempt) } else { None }).await;
    assert_eq!(attempt.request, asked);
    let node_id: mesh_core::ids::NodeId = "homelab".parse().unwrap();
    attempt.answers.send(JoinAnswer::Waiting { node_id: node_id.clone() }).await.unwrap();
    assert_eq!(conversation.answers.recv().await, Some(JoinAnswer::Waiting { node_id }));
    let epoch = Epoch { counter: 4, class: 2, peer: a.id() };
    let welcome = Box::new(Welcome {
        mesh: MeshId([5; 32]),
        trust: vec![entry(&a.key), entry(&stranger.key)],
        directory: vec![entry(&a.key)],
        rights: vec![entry(&a.key)],
        fence: Fence { epoch, proof: Some(Claim::sign(&a.key, MeshId([5; 32]), epoch, 2)) },
        node_id: "laptop-2".parse().unwrap(),
        tier: Tier::Owner,
    });
    attempt.answers.send(JoinAnswer::Welcome(welcome.clone())).await.unwrap();
    assert_eq!(conversation.answers.recv().await, Some(JoinAnswer::Welcome(welcome)));
    assert_eq!(conversation.answers.recv().await, None);
}

#[tokio::test]
async fn a_welcome_with_a_forged_entry_is_not_believed() {
    let (mut a, stranger) = (Peer::start(), Peer::start());
    let mut conversation = stranger.links.join(&[a.address()], None, &request(None)).await.unwrap();
    let attempt = a.wait(|event| if let LinkEvent::JoinAttempt(attempt) = event { Some(attempt) } else { None }).await;
    let forged = {
        let good = entry(&a.key);
        SignedEntry::trusted(&good.bytes, entry(&stranger.key).signature, &good.sealed()).unwrap()
    };
    let epoch = Epoch { counter: 4, class: 2, peer: a.id() };
    let welcome = Welcome {
        mesh: MeshId([5; 32]),
        trust: vec![forged],
        directory: Vec::new(),
        rights: Vec::new(),
        fence: Fence { epoch, proof: None },
        node_id: "x".parse().unwrap(),
        tier: Tier::Owner,
    };
    attempt.answers.send(JoinAnswer::Welcome(Box::new(welcome))).await.unwrap();
    assert_eq!(conversation.answers.recv().await, None);
}
