//! The text that lets a new device in: `sigil1-` and some base32, made to be pasted, typed or photographed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use mesh_core::entry::Tier;
use mesh_core::ids::{Hash, MeshId, PeerId};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// What every code begins with; the digit is the version of what follows.
const PREFIX: &str = "sigil1-";
/// Addresses in one code: more make it too long to type and the picture too dense to photograph.
pub const ADDRESSES_MAX: usize = 16;
/// Longest text that is looked at, in bytes. A full code has fewer than 700 characters; people add spaces.
const TEXT_BYTES_MAX: usize = 2048;
const SUM_BYTES: usize = 4;

/// An invite: who invites to which mesh, the secret that proves it, and where the inviter is.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode {
    /// The mesh.
    pub mesh: MeshId,
    /// Who made the invite, and the only one who can redeem it.
    pub inviter: PeerId,
    /// Proves to the inviter that the bearer was invited. Never logged, never stored: see [`Self::secret_hash`].
    pub secret: [u8; 16],
    /// Wall time of the inviter, in milliseconds.
    pub expires_ms: u64,
    /// What it grants, to be shown to people; the inviter decides by its own record.
    pub tier: Tier,
    /// Where the inviter may be reached; the first [`ADDRESSES_MAX`] go into the text, without IPv6 zones.
    pub addresses: Vec<SocketAddr>,
}

/// Why a text is not a code. Each message is fit for a person.
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
    /// What the inviter keeps in place of the secret.
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
        for address in self.addresses.iter().take(ADDRESSES_MAX) {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(address.port().to_be_bytes());
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
        let ip = match take(bytes)? {
            [4] => IpAddr::from(take::<4>(bytes)?),
            [6] => IpAddr::from(take::<16>(bytes)?),
            _ => return None,
        };
        addresses.push(SocketAddr::new(ip, u16::from_be_bytes(take(bytes)?)));
    }
    (addresses.len() <= ADDRESSES_MAX).then_some(InviteCode { mesh, inviter, secret, expires_ms, tier, addresses })
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
            addresses: vec!["192.168.1.7:7423".parse().unwrap(), "[fd00::1]:7423".parse().unwrap()],
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
        many.addresses = (1..=40).map(|n| SocketAddr::from(([10, 0, 0, n], 7))).collect();
        let read: InviteCode = many.to_string().parse().unwrap();
        assert_eq!(read.addresses, many.addresses[..ADDRESSES_MAX]);
        many.addresses = vec!["[2001:db8::1]:7423".parse().unwrap(); 40];
        assert!(many.qr().lines().count() > 20);
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
            let addresses = addresses.iter().map(|address| SocketAddr::new(address.ip(), address.port())).collect();
            let code = InviteCode { mesh: MeshId(mesh), inviter: PeerId(inviter), secret, expires_ms, tier, addresses };
            prop_assert_eq!(code.to_string().parse(), Ok(code));
        }
    }
}
