//! The text that gets a new device into a mesh: `sigil1-` and some base32, made to be pasted, typed or photographed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use mesh_core::ids::{Hash, MeshId, PeerId};
use mesh_core::record::Tier;
use qrcode::render::unicode::Dense1x2;
use qrcode::{Color, EcLevel, QrCode};

use crate::mesh::transport::Address;

/// First characters of every code; the digit is the version of what follows.
const PREFIX: &str = "sigil1-";
/// Addresses in one code: more make it too long to type and the picture too dense to photograph.
pub const ADDRESSES_MAX: usize = 16;
/// Longest text that is looked at, in bytes. A full code has fewer than 700 characters; people add spaces.
const TEXT_BYTES_MAX: usize = 2048;
const SUM_BYTES: usize = 4;
/// Bytes of all addresses in one code: as many as [`ADDRESSES_MAX`] IPv6 sockets need.
const ADDRESS_BYTES_MAX: usize = ADDRESSES_MAX * 19;
/// Kinds of addresses in a code. Sockets are `[kind][ip][port]`; all others are `[kind][length][bytes]`, so that a kind
/// which is not known here can be skipped. 18 is reserved for relays.
const KIND_V4: u8 = 4;
const KIND_V6: u8 = 6;
const KIND_NAME: u8 = 16;
const KIND_TAILNET: u8 = 17;

/// An invite: who invites to which mesh, the secret that proves it, and where the inviter is.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode {
    /// The mesh.
    pub mesh: MeshId,
    /// The peer that made the invite, and the only one that can redeem it.
    pub inviter: PeerId,
    /// Proves to the inviter that the bearer was invited. Never logged, never stored: see [`Self::secret_hash`].
    pub secret: [u8; 16],
    /// Wall time of the inviter, in milliseconds.
    pub expires_ms: u64,
    /// The tier that it grants, to be shown to people; the inviter decides by its own record.
    pub tier: Tier,
    /// Addresses of the inviter. The first [`ADDRESSES_MAX`] that fit go into the text, without IPv6 zones;
    /// relays and unknown addresses do not.
    pub addresses: Vec<Address>,
}

/// The reason for which a text is not a code. Each message is fit for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteCodeError {
    /// No code at all.
    #[error("a code begins with `sigil1-`")]
    NoPrefix,
    /// Made by a newer sigil.
    #[error("this code is of another version of sigil; update this device")]
    OtherVersion,
    /// Longer than any code.
    #[error("this is too long for a code")]
    TooLong,
    /// A character that no code has.
    #[error("`{0}` cannot be in a code")]
    BadCharacter(char),
    /// The checksum does not fit: characters were lost or changed.
    #[error("there is a typo in it, or a part is missing")]
    Typo,
    /// The checksum fits and the content makes no sense.
    #[error("it is not complete in itself; ask for a new one")]
    Malformed,
}

impl InviteCode {
    /// The hash that the inviter keeps in place of the secret.
    #[must_use]
    pub fn secret_hash(&self) -> Hash {
        Hash::of(&self.secret)
    }

    /// The code as a QR picture of text characters, for a dark terminal.
    #[must_use]
    pub fn qr(&self) -> String {
        // Capitals and digits take 5.5 bits each in a QR code, small letters 8.
        let text = self.to_string().to_ascii_uppercase();
        qr_code(&text).render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build()
    }

    /// The same picture as rows of `0` (light) and `1` (dark), without the light margin of four modules that it needs around it.
    #[must_use]
    pub fn qr_rows(&self) -> Vec<String> {
        let code = qr_code(&self.to_string().to_ascii_uppercase());
        let modules = code.to_colors();
        let row = |row: &[Color]| row.iter().map(|module| module.select('1', '0')).collect();
        modules.chunks(code.width()).map(row).collect()
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InviteCode")
            .field("mesh", &self.mesh)
            .field("inviter", &self.inviter)
            .field("secret", &"redacted")
            .field("expires_ms", &self.expires_ms)
            .field("tier", &self.tier)
            .field("addresses", &self.addresses)
            .finish()
    }
}

/// The code itself, secret included.
impl fmt::Display for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend(self.mesh.0);
        bytes.extend(self.inviter.0);
        bytes.extend(self.secret);
        bytes.extend(self.expires_ms.to_be_bytes());
        bytes.push(match self.tier {
            Tier::Ephemeral => 0,
            Tier::Shared => 1,
            Tier::Owner => 2,
        });
        let mut room = ADDRESS_BYTES_MAX;
        for address in self.addresses.iter().filter_map(encode).take(ADDRESSES_MAX) {
            if let Some(left) = room.checked_sub(address.len()) {
                room = left;
                bytes.extend(address);
            }
        }
        bytes.extend(sum(&bytes));
        write!(f, "{PREFIX}{}", BASE32.encode(&bytes))
    }
}

impl FromStr for InviteCode {
    type Err = InviteCodeError;

    /// Reads a code as people give it: in capitals, with spaces and line breaks, with `o` for `0` and `l` for `1`.
    fn from_str(text: &str) -> Result<Self, InviteCodeError> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(InviteCodeError::TooLong);
        }
        let (prefix, rest) = text.split_once('-').ok_or(InviteCodeError::NoPrefix)?;
        match prefix.to_ascii_lowercase().strip_prefix("sigil") {
            Some("1") => {}
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(InviteCodeError::OtherVersion);
            }
            _ => return Err(InviteCodeError::NoPrefix),
        }
        let rest: String = rest.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        if let Some(bad) = rest.chars().find(|c| !c.is_ascii_alphanumeric() || matches!(c, 'u' | 'U')) {
            return Err(InviteCodeError::BadCharacter(bad));
        }
        let bytes = BASE32.decode(rest.as_bytes()).map_err(|_| InviteCodeError::Typo)?;
        let split = bytes.len().checked_sub(SUM_BYTES).ok_or(InviteCodeError::Typo)?;
        let (bytes, given) = bytes.split_at(split);
        if given != sum(bytes) {
            return Err(InviteCodeError::Typo);
        }
        parse(bytes).ok_or(InviteCodeError::Malformed)
    }
}

fn qr_code(text: &str) -> QrCode {
    let code = QrCode::with_error_correction_level(text, EcLevel::L);
    code.expect("a code with all its addresses is shorter than a QR code can be")
}

fn parse(mut bytes: &[u8]) -> Option<InviteCode> {
    let bytes = &mut bytes;
    let mesh = MeshId(take(bytes)?);
    let inviter = PeerId(take(bytes)?);
    let secret = take(bytes)?;
    let expires_ms = u64::from_be_bytes(take(bytes)?);
    let tier = match take(bytes)? {
        [0] => Tier::Ephemeral,
        [1] => Tier::Shared,
        [2] => Tier::Owner,
        _ => return None,
    };
    let mut addresses = Vec::new();
    while !bytes.is_empty() {
        let [kind] = take(bytes)?;
        match kind {
            KIND_V4 => addresses.push(Address::Udp(take_socket::<4>(bytes)?)),
            KIND_V6 => addresses.push(Address::Udp(take_socket::<16>(bytes)?)),
            KIND_NAME => addresses.push(decode_name(take_body(bytes)?)?),
            KIND_TAILNET => addresses.push(decode_tailnet(take_body(bytes)?)?),
            // Of a newer version.
            _ => drop(take_body(bytes)?),
        }
    }
    (addresses.len() <= ADDRESSES_MAX).then_some(InviteCode { mesh, inviter, secret, expires_ms, tier, addresses })
}

/// The bytes of an address, if it can be in a code.
fn encode(address: &Address) -> Option<Vec<u8>> {
    let (kind, body) = match address {
        Address::Udp(socket) => {
            let kind = if socket.is_ipv4() { KIND_V4 } else { KIND_V6 };
            return Some([&[kind][..], &socket_bytes(*socket)].concat());
        }
        Address::UdpName(name) => (KIND_NAME, [name.host().as_bytes(), &name.port().to_be_bytes()].concat()),
        Address::Tailnet(socket) => (KIND_TAILNET, socket_bytes(*socket)),
        Address::Relay { .. } | Address::Unknown(_) => return None,
    };
    Some([&[kind, u8::try_from(body.len()).ok()?][..], &body].concat())
}

fn socket_bytes(socket: SocketAddr) -> Vec<u8> {
    let port = socket.port().to_be_bytes();
    match socket.ip() {
        IpAddr::V4(ip) => [&ip.octets()[..], &port].concat(),
        IpAddr::V6(ip) => [&ip.octets()[..], &port].concat(),
    }
}

fn take_socket<const N: usize>(bytes: &mut &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    Some(SocketAddr::new(take::<N>(bytes)?.into(), u16::from_be_bytes(take(bytes)?)))
}

fn take_body<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [len] = take(bytes)?;
    let (body, tail) = bytes.split_at_checked(len.into())?;
    *bytes = tail;
    Some(body)
}

fn decode_name(body: &[u8]) -> Option<Address> {
    let (host, port) = body.split_last_chunk()?;
    let host = std::str::from_utf8(host).ok()?;
    format!("{host}:{}", u16::from_be_bytes(*port)).parse().ok().map(Address::UdpName)
}

fn decode_tailnet(mut body: &[u8]) -> Option<Address> {
    let socket = match body.len() {
        6 => take_socket::<4>(&mut body)?,
        18 => take_socket::<16>(&mut body)?,
        _ => return None,
    };
    Some(Address::Tailnet(socket))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

/// Against typos, not against forgers: those lack the secret.
fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let [a, b, c, d, ..] = Hash::of(&[PREFIX.as_bytes(), bytes].concat()).0;
    [a, b, c, d]
}

/// Crockford's base32 in small letters: no `u`, and nothing that looks like a digit.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    spec.translate.from.push_str("ABCDEFGHJKMNPQRSTVWXYZoOiIlL");
    spec.translate.to.push_str("abcdefghjkmnpqrstvwxyz001111");
    spec.encoding().expect("the alphabet is a constant")
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code() -> InviteCode {
        InviteCode {
            mesh: MeshId([1; 32]),
            inviter: PeerId([2; 32]),
            secret: [0x5e; 16],
            expires_ms: 1_767_225_600_000,
            tier: Tier::Owner,
            addresses: ["192.168.1.7:7423", "[fd00::1]:7423"].map(Address::from).to_vec(),
        }
    }

    #[test]
    fn a_code_reads_as_people_give_it() {
        let text = code().to_string();
        let (head, tail) = text.split_at(40);
        for given in [
            text.clone(),
            text.to_uppercase(),
            format!("  {text}\n"),
            format!("{head}\n   {tail}"),
            format!("{}{}", &text[..7], text[7..].replace('0', "O").replace('1', "l")),
        ] {
            assert_eq!(given.parse(), Ok(code()), "{given}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_code_is_told() {
        let text = code().to_string();
        let parse = |text: &str| text.parse::<InviteCode>().unwrap_err();
        assert_eq!(parse(""), InviteCodeError::NoPrefix);
        assert_eq!(parse("hello-world"), InviteCodeError::NoPrefix);
        assert_eq!(parse("sigil-abc"), InviteCodeError::NoPrefix);
        assert_eq!(parse(&text.replace("sigil1", "sigil2")), InviteCodeError::OtherVersion);
        assert_eq!(parse(&text[..text.len() - 3]), InviteCodeError::Typo);
        assert_eq!(parse("sigil1-"), InviteCodeError::Typo);
        assert_eq!(parse(&format!("{text}u")), InviteCodeError::BadCharacter('u'));
        assert_eq!(parse(&format!("sigil1-ä{}", &text[7..])), InviteCodeError::BadCharacter('ä'));
        assert_eq!(parse(&format!("{text}{}", "0".repeat(4000))), InviteCodeError::TooLong);
        let mut unknown_tier = vec![9; 89];
        unknown_tier.extend(sum(&unknown_tier));
        assert_eq!(parse(&format!("{PREFIX}{}", BASE32.encode(&unknown_tier))), InviteCodeError::Malformed);
    }

    #[test]
    fn any_single_typo_is_found() {
        let text = code().to_string();
        for at in PREFIX.len()..text.len() {
            let mut typo = text.clone().into_bytes();
            typo[at] = if typo[at] == b'7' { b'8' } else { b'7' };
            assert_eq!(String::from_utf8(typo).unwrap().parse::<InviteCode>(), Err(InviteCodeError::Typo));
        }
    }

    #[test]
    fn more_addresses_than_fit_are_left_out() {
        let mut many = code();
        many.addresses = (1..=40).map(|n| SocketAddr::from(([10, 0, 0, n], 7)).into()).collect();
        let read: InviteCode = many.to_string().parse().unwrap();
        assert_eq!(read.addresses, many.addresses[..ADDRESSES_MAX]);
        for full in ["[2001:db8::1]:7423".to_owned(), format!("udp://{}:7423", "a".repeat(253))] {
            many.addresses = vec![full.as_str().into(); 40];
            assert!(many.qr().lines().count() > 20);
            let rows = many.qr_rows();
            // The corners that a reader looks for.
            assert!(rows.iter().all(|row| row.len() == rows.len()) && rows[0].starts_with("11111110"));
            assert!(many.to_string().parse::<InviteCode>().is_ok());
        }
    }

    #[test]
    fn addresses_of_every_kind_travel_and_those_of_a_newer_version_are_skipped() {
        let mut code = code();
        let relay = format!("relay://{}@10.0.0.1:7", PeerId([3; 32]));
        let texts =
            ["10.0.0.1:7", "udp://home.example.org:7433", "tailnet://100.64.0.3:7435", "tailnet://[fd7a::1]:7435"];
        code.addresses = texts.iter().copied().chain([relay.as_str(), "of another form"]).map(Address::from).collect();
        let read: InviteCode = code.to_string().parse().unwrap();
        assert_eq!(read.addresses, texts.map(Address::from));

        let with = |addresses: &[u8]| {
            let mut bytes = [[1; 32], [2; 32]].concat();
            bytes.extend([0x5e; 16]);
            bytes.extend(1_767_225_600_000_u64.to_be_bytes());
            bytes.push(2);
            bytes.extend(addresses);
            bytes.extend(sum(&bytes));
            format!("{PREFIX}{}", BASE32.encode(&bytes)).parse::<InviteCode>()
        };
        let newer = with(&[200, 3, 9, 9, 9, KIND_V4, 10, 0, 0, 1, 0, 7, 18, 0]);
        assert_eq!(newer.unwrap().addresses, [Address::from("10.0.0.1:7")]);
        assert_eq!(with(&[200, 3, 9, 9]), Err(InviteCodeError::Malformed));
        assert_eq!(with(&[KIND_TAILNET, 2, 9, 9]), Err(InviteCodeError::Malformed));
        assert_eq!(with(&[KIND_NAME, 3, b'/', 0, 7]), Err(InviteCodeError::Malformed));
    }

    #[test]
    fn debug_hides_the_secret() {
        let shown = format!("{:?}", code());
        assert!(shown.contains("redacted") && !shown.contains("94"), "{shown}"); // 0x5e = 94
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in ".*", tail in "[0-9a-zA-Z\\- ]{0,300}") {
            let _ = text.parse::<InviteCode>();
            let _ = format!("sigil1-{text}").parse::<InviteCode>();
            let _ = format!("sigil1-{tail}").parse::<InviteCode>();
        }

        #[test]
        fn hostile_content_with_a_good_checksum_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            bytes.extend(sum(&bytes));
            if let Ok(code) = format!("{PREFIX}{}", BASE32.encode(&bytes)).parse::<InviteCode>() {
                prop_assert!(code.addresses.len() <= ADDRESSES_MAX);
            }
        }

        #[test]
        fn a_code_survives_the_way_through_text(
            mesh: [u8; 32], inviter: [u8; 32], secret: [u8; 16], expires_ms: u64, tier in 0..3_usize,
            addresses in prop::collection::vec(any::<SocketAddr>(), 0..=ADDRESSES_MAX),
        ) {
            let tier = [Tier::Ephemeral, Tier::Shared, Tier::Owner][tier];
            let addresses = addresses.iter().map(|socket| SocketAddr::new(socket.ip(), socket.port()).into()).collect();
            let code = InviteCode { mesh: MeshId(mesh), inviter: PeerId(inviter), secret, expires_ms, tier, addresses };
            prop_assert_eq!(code.to_string().parse(), Ok(code));
        }
    }
}
