//! TLS of the links: both ends show a self-signed certificate of their device key and prove that they hold the key.
//!
//! Only the key counts. The certificate is made anew at each start, names and dates in it are never looked at.

use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::ids::{PeerId, PublicKey};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};

/// The protocol that both ends must name (RFC 7301).
pub const ALPN: &[u8] = b"sigil/3";
/// Name in certificates and in the client's hello; says nothing about who it is.
pub(super) const SERVER_NAME: &str = "sigil";
/// Prefix of the 32 bytes of an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why the device key cannot be used for links.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The key is not an Ed25519 key in PKCS #8, or making a certificate from it failed.
    #[error("making a certificate from the device key")]
    Certificate(#[from] rcgen::Error),
    /// rustls refuses the certificate or the settings.
    #[error("setting up TLS")]
    Tls(#[from] Error),
    /// The cipher suite of QUIC's first packets is not there.
    #[error("TLS lacks the cipher suite that QUIC begins with")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// The certificate of this process and its key: enough to build configurations for accepting and dialling.
#[derive(Debug)]
pub(super) struct Credentials {
    provider: Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Credentials {
    /// Makes a certificate.
    pub(super) fn new(pkcs8: &[u8]) -> Result<Self, TlsError> {
        let key = PrivatePkcs8KeyDer::from(pkcs8.to_vec());
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)?;
        let certificate = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()])?.self_signed(&pair)?;
        Ok(Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            chain: vec![certificate.der().clone()],
            key,
        })
    }

    /// For accepting: any Ed25519 key that is proven gets a connection; what it may do there is decided afterwards.
    pub(super) fn server(&self) -> Result<quinn::crypto::rustls::QuicServerConfig, TlsError> {
        let verifier = Arc::new(KeyVerifier::new(self.provider.clone(), None));
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), PrivateKeyDer::Pkcs8(self.key.clone_key()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would not prove the key again.
        config.send_tls13_tickets = 0;
        Ok(config.try_into()?)
    }

    /// For dialling. The verifier tells afterwards who answered.
    pub(super) fn client(
        &self,
        verifier: Arc<KeyVerifier>,
    ) -> Result<quinn::crypto::rustls::QuicClientConfig, TlsError> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), PrivateKeyDer::Pkcs8(self.key.clone_key()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config.try_into()?)
    }

    /// A verifier for dialling; `expected` = the only peer that may answer.
    pub(super) fn verifier(&self, expected: Option<PeerId>) -> Arc<KeyVerifier> {
        Arc::new(KeyVerifier::new(self.provider.clone(), expected))
    }
}

/// Takes any certificate with an Ed25519 key, or only that of one peer, and checks that the other end holds the key.
#[derive(Debug)]
pub(super) struct KeyVerifier {
    provider: Arc<CryptoProvider>,
    expected: Option<PeerId>,
    stranger: Mutex<Option<PeerId>>,
}

impl KeyVerifier {
    fn new(provider: Arc<CryptoProvider>, expected: Option<PeerId>) -> Self {
        Self { provider, expected, stranger: Mutex::new(None) }
    }

    /// Peer that answered in place of the expected one, if any. Not proven: the handshake ended there.
    pub(super) fn stranger(&self) -> Option<PeerId> {
        *self.stranger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let peer = certificate_key(certificate)
            .ok_or(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?
            .peer_id();
        if self.expected.is_some_and(|expected| expected != peer) {
            *self.stranger.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(())
    }

    /// Proof that the other end holds the key. Whoever answers "valid" here without checking lets anyone be anyone.
    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon));
        }
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The Ed25519 key in a certificate.
fn certificate_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let spki = ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info();
    PublicKey::from_slice(spki.as_ref().strip_prefix(&ED25519_SPKI_PREFIX)?)
}

/// The key that the other end of a connection has proven to hold.
#[must_use]
pub fn peer_key(connection: &quinn::Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?;
    certificate_key(identity.downcast_ref::<Vec<CertificateDer<'static>>>()?.first()?)
}
