//! Whoever is at the other end of a connection over loopback. Every user of this machine reaches the loopback door, and a cookie
//! or a code may have come to a process that listened where a browser took it for us; the kernel knows whose process it is.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

/// The user of a connection's other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// This one, by its number.
    Is(u32),
    /// The kernel has no open connection any more that would tell.
    Gone,
    /// This system does not tell.
    Untold,
}

impl User {
    /// True if a session that was opened by user `opened_by` is to be served to it. Root may be anybody.
    #[must_use]
    pub fn may_be(self, opened_by: Option<u32>) -> bool {
        match (self, opened_by) {
            (Self::Untold | Self::Is(0), _) | (Self::Is(_), None) => true,
            (Self::Is(user), Some(opened_by)) => user == opened_by,
            (Self::Gone, _) => false,
        }
    }

    /// Its number, if it is known.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Is(user) => Some(user),
            Self::Gone | Self::Untold => None,
        }
    }
}

/// The other end of a connection to a loopback door. Its user is looked up when somebody wants to know, and known from then on.
#[derive(Debug)]
pub struct OtherEnd {
    ours: SocketAddr,
    theirs: SocketAddr,
    user: OnceLock<User>,
}

impl OtherEnd {
    /// The other end of a connection from `theirs` to `ours`.
    #[must_use]
    pub fn new(ours: SocketAddr, theirs: SocketAddr) -> Self {
        Self { ours, theirs, user: OnceLock::new() }
    }

    /// Its user. Reads the kernel's table of connections, until it is in there.
    #[must_use]
    pub fn user(&self) -> User {
        if let Some(user) = self.user.get() {
            return *user;
        }
        match look_up(self.ours, self.theirs) {
            // The table is not read in one moment, and a row may be missed.
            User::Gone => User::Gone,
            user @ (User::Is(_) | User::Untold) => *self.user.get_or_init(|| user),
        }
    }
}

impl PartialEq for OtherEnd {
    fn eq(&self, other: &Self) -> bool {
        (self.ours, self.theirs) == (other.ours, other.theirs)
    }
}

impl Eq for OtherEnd {}

fn look_up(ours: SocketAddr, theirs: SocketAddr) -> User {
    // A socket of IPv6 that speaks IPv4 stands in the table of the former, with the address mapped.
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    if !cfg!(target_os = "linux") || tables.iter().all(Result::is_err) {
        return User::Untold;
    }
    let found = tables.iter().flatten().find_map(|table| user_in(table, ours, theirs));
    found.map_or(User::Gone, User::Is)
}

/// The user of the open socket whose own end is `theirs` and whose other is `ours`, in a table of the kernel.
fn user_in(table: &str, ours: SocketAddr, theirs: SocketAddr) -> Option<u32> {
    let names = |address: SocketAddr| [plain(address), mapped(address)];
    let (ours, theirs) = (names(ours), names(theirs));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = theirs.iter().any(|name| name == local) && ours.iter().any(|name| name == remote);
        // Open, and held by a process: of one that was closed the number says nothing.
        let mut fields = fields.skip(3);
        let (user, _timeout, inode) = (fields.next()?, fields.next()?, fields.next()?);
        (is_it && state == "01" && inode != "0").then(|| user.parse().ok())?
    })
}

/// An address as the kernel writes it: words of 32 bits in the order of this machine, in hexadecimal, and the port.
fn plain(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(ip) => words(ip),
    };
    format!("{ip}:{:04X}", address.port())
}

fn mapped(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    format!("{}:{:04X}", words(ip), address.port())
}

fn words(ip: Ipv6Addr) -> String {
    let mut text = String::with_capacity(32);
    for word in ip.octets().as_chunks::<4>().0 {
        let _ = write!(text, "{:08X}", u32::from_ne_bytes(*word));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_whose_a_connection_is_while_it_is_open() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let ours = listener.local_addr().unwrap();
            let client = TcpStream::connect(ours).unwrap();
            let (_server, theirs) = listener.accept().unwrap();
            let end = OtherEnd::new(ours, theirs);
            if cfg!(target_os = "linux") {
                assert_eq!(end.user(), User::Is(nix::unistd::geteuid().as_raw()), "{address}");
                drop(client);
                assert_eq!(OtherEnd::new(ours, theirs).user(), User::Gone, "what was closed tells nothing");
            }
            assert!(end.user().may_be(Some(nix::unistd::geteuid().as_raw())));
        }
    }

    #[test]
    fn a_session_is_served_to_its_user_and_to_root() {
        assert!(User::Is(1000).may_be(Some(1000)) && User::Is(0).may_be(Some(1000)) && User::Is(7).may_be(None));
        assert!(!User::Is(65534).may_be(Some(1000)) && !User::Is(1000).may_be(Some(0)));
        assert!(!User::Gone.may_be(Some(1000)) && User::Untold.may_be(Some(1000)));
    }

    #[test]
    fn a_row_of_the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
               0: 0100007F:1D0A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1\n\
               1: 0100007F:C001 0100007F:1D0A 01 00000000:00000000 00:00000000 00000000  1000        0 222 1\n\
               2: 0100007F:C002 0100007F:1D0A 05 00000000:00000000 00:00000000 00000000     0        0 0 1\n";
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let user = |port| user_in(table, at(0x1d0a), at(port));
        if cfg!(target_endian = "little") {
            assert_eq!((user(0xc001), user(0xc002), user(0xc003)), (Some(1000), None, None));
        }
        let long =
            "x\n0: 0000000000000000FFFF00000100007F:C001 0000000000000000FFFF00000100007F:1D0A 01 0:0 0:0 0 12 0 9 1\n";
        if cfg!(target_endian = "little") {
            assert_eq!(user_in(long, at(0x1d0a), at(0xc001)), Some(12));
        }
    }
}
