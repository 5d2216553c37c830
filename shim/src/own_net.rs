//! A network that is a tool's own: nothing but a loopback, and on it a socket that the agent takes, by which the tool asks for
//! what is outside.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use crate::process::Why;
use crate::wire::{self, PROXY_PORT, Report};

// From `linux/netlink.h` and `linux/rtnetlink.h`.
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
/// Bytes of the head of a message.
const HEAD: usize = 16;
/// The loopback is the first device of every network.
const LOOPBACK: i32 = 1;
/// `IFF_UP`
const UP: u32 = 1;

/// Brings the loopback of a new network up, which gives it its addresses.
pub(crate) fn loopback_up() -> Result<(), Why> {
    let failed = |errno: rustix::io::Errno| format!("a network of its own: its loopback does not come up: {errno}");
    // The protocol without a number is that of routes and devices.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map_err(failed)?;
    send(&socket, &message(), SendFlags::empty()).map_err(failed)?;
    let mut answer = [0; 256];
    let (len, _) = recv(&socket, &mut answer, RecvFlags::empty()).map_err(failed)?;
    match answered(answer.get(..len).unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(errno) => Err(failed(rustix::io::Errno::from_raw_os_error(errno))),
        None => Err("a network of its own: the kernel answers something else".to_owned()),
    }
}

/// `nlmsghdr` and `ifinfomsg`: the flag alone of the loopback is set.
fn message() -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0]; // family, padding, type of the device
    body.extend(LOOPBACK.to_ne_bytes());
    body.extend(UP.to_ne_bytes());
    body.extend(UP.to_ne_bytes()); // which flags change
    let mut message = Vec::new();
    message.extend(u32::try_from(HEAD + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend([0; 8]); // number of the message, whose it is
    message.extend(body);
    message
}

/// The number of the error that the kernel answers with; 0: none.
fn answered(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let errno = i32::from_ne_bytes(*answer.get(HEAD..)?.first_chunk()?);
    (kind == NLMSG_ERROR).then_some(-errno)
}

/// Listens at the port by which a tool asks for what is outside, and hands that to the agent. Nothing of the tool has run by
/// now, so that nothing else listens there.
pub(crate) fn hand_listener(by: &UnixStream) -> Result<(), Why> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PROXY_PORT))
        .map_err(|error| format!("the way out of its network: {error}"))?;
    wire::tell_with(by, &Report::Socket, &[listener.as_fd()]).map_err(|error| format!("the agent is gone: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_says_and_an_answer_is_told_from_others() {
        let message = message();
        assert_eq!((message.len(), message[0]), (32, 32));
        let answer = |kind: u16, errno: i32| {
            let mut answer = vec![0; 4];
            answer.extend(kind.to_ne_bytes());
            answer.resize(HEAD, 0);
            answer.extend(errno.to_ne_bytes());
            answer
        };
        assert_eq!(answered(&answer(NLMSG_ERROR, 0)), Some(0));
        assert_eq!(answered(&answer(NLMSG_ERROR, -1)), Some(1));
        assert_eq!(answered(&answer(3, 0)), None);
        assert_eq!(answered(&[0; 7]), None);
    }
}
