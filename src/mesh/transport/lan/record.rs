//! What is said on the local network: DNS messages over multicast (RFC 6762, RFC 6763) that ask for `_sigil._udp` and
//! answer with an instance, its port, and whether it knows a mesh. The address is that of the packet.

use mesh_core::ids::{Hash, MeshId};
use simple_dns::rdata::{PTR, RData, SRV, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, ResourceRecord, TYPE};

/// Longest packet that is read; ours have 200 bytes.
pub(super) const PACKET_BYTES_MAX: usize = 1500;
/// Records of all sections of a packet that is read.
const RECORDS_MAX: u16 = 64;
/// Lifetime that is given for our record, in seconds.
const TTL_S: u32 = 180;
const SERVICE: &str = "_sigil._udp.local";
/// Name of the mesh's tag in the text record.
const TAG: &str = "mesh";

/// A device for as long as it is in one network: a name that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instance(pub(super) u64);

impl Instance {
    /// The sign by which those who know a mesh recognize that an instance knows it too.
    fn tag(self, mesh: MeshId) -> u64 {
        let Hash(hash) = Hash::of(&[b"sigil lan".as_slice(), &mesh.0, &self.0.to_be_bytes()].concat());
        hash.into_iter().take(8).fold(0, |tag, byte| tag << 8 | u64::from(byte))
    }
}

/// The record of a device that is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) instance: Instance,
    /// Port of its QUIC door; never 0.
    pub(super) port: u16,
    tag: u64,
}

impl Record {
    pub(super) fn new(instance: Instance, port: u16, mesh: MeshId) -> Self {
        Self { instance, port, tag: instance.tag(mesh) }
    }

    /// True if who made it knows this mesh, or repeats what one of those said.
    pub(super) fn is_of(&self, mesh: MeshId) -> bool {
        self.tag == self.instance.tag(mesh)
    }

    /// The answer to [`question`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let label = format!("{:016x}", self.instance.0);
        let (instance, host) = (format!("{label}.{SERVICE}"), format!("{label}.local"));
        let tag = format!("{TAG}={:016x}", self.tag);
        let name = || Name::new_unchecked(&instance);
        let record = |name, rdata| ResourceRecord::new(name, CLASS::IN, TTL_S, rdata);
        let mut packet = Packet::new_reply(0);
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        packet.answers.push(record(Name::new_unchecked(SERVICE), RData::PTR(PTR(name()))));
        let server = SRV { priority: 0, weight: 0, port: self.port, target: Name::new_unchecked(&host) };
        packet.additional_records.push(record(name(), RData::SRV(server)));
        let mut text = TXT::new();
        if text.add_string(&tag).is_ok() {
            packet.additional_records.push(record(name(), RData::TXT(text)));
        }
        packet.build_bytes_vec_compressed().unwrap_or_default()
    }
}

/// Asks who is there.
pub(super) fn question() -> Vec<u8> {
    let mut packet = Packet::new_query(0);
    let name = Name::new_unchecked(SERVICE);
    packet.questions.push(Question::new(name, TYPE::PTR.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec_compressed().unwrap_or_default()
}

/// Part of a packet that concerns us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Someone asks who is there.
    Question,
    /// Someone is there.
    Record(Record),
}

/// Reads a packet. Of one with several instances only the first counts: a device has one.
pub(super) fn read(bytes: &[u8]) -> Option<Heard> {
    // The four numbers of records: a packet cannot make us set aside room for thousands.
    let counts = bytes.get(4..12)?.chunks_exact(2).map(|pair| pair.iter().fold(0, |n, byte| n << 8 | u16::from(*byte)));
    if counts.fold(0_u16, u16::saturating_add) > RECORDS_MAX {
        return None;
    }
    let packet = Packet::parse(bytes).ok()?;
    let service = Name::new_unchecked(SERVICE);
    if !packet.has_flags(PacketFlag::RESPONSE) {
        return packet.questions.iter().any(|question| question.qname == service).then_some(Heard::Question);
    }
    let records = || packet.answers.iter().chain(&packet.additional_records);
    let name = records().find_map(|record| {
        let RData::PTR(PTR(name)) = &record.rdata else { return None };
        (record.name == service && name.is_subdomain_of(&service)).then_some(name)
    })?;
    let label = name.get_labels().first()?.to_string();
    let instance = Instance(hex(label.as_bytes())?);
    let own = || records().filter(|record| record.name == *name);
    let port =
        own().find_map(|record| if let RData::SRV(server) = &record.rdata { Some(server.port) } else { None })?;
    let tag = own().find_map(|record| {
        let RData::TXT(text) = &record.rdata else { return None };
        text.iter_raw().find(|(key, _)| *key == TAG.as_bytes()).and_then(|(_, value)| hex(value?))
    });
    (port != 0).then_some(Heard::Record(Record { instance, port, tag: tag.unwrap_or_default() }))
}

/// Reads 16 digits.
fn hex(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use mesh_core::test_kit::{Mutation, fuzz};

    use super::*;

    const MESH: MeshId = MeshId([7; 32]);

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record::new(Instance(0x12ab), 7433, MESH);
        let bytes = record.encode();
        assert!(bytes.len() <= 200, "{}", bytes.len());
        assert_eq!(read(&bytes), Some(Heard::Record(record)));
        assert!(record.is_of(MESH) && !record.is_of(MeshId([8; 32])));
        assert_eq!(read(&question()), Some(Heard::Question));
    }

    #[test]
    fn s33_a_record_says_nothing_of_who_it_is() {
        let text = |instance| String::from_utf8_lossy(&Record::new(instance, 7433, MESH).encode()).into_owned();
        let (one, other) = (text(Instance(1)), text(Instance(2)));
        assert!(!one.contains(env!("CARGO_PKG_VERSION")), "{one:?}");
        // Two of one device have nothing in common but what all devices say.
        let words = |text: &str| -> Vec<String> {
            text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 5).map(str::to_owned).collect()
        };
        let common: Vec<String> = words(&one).into_iter().filter(|word| words(&other).contains(word)).collect();
        assert!(common.is_empty(), "{common:?}");
    }

    #[test]
    fn others_packets_are_none_of_ours() {
        let mut packet = Packet::new_query(0);
        let name = Name::new_unchecked("_http._tcp.local");
        packet.questions.push(Question::new(name, TYPE::PTR.into(), CLASS::IN.into(), false));
        assert_eq!(read(&packet.build_bytes_vec().unwrap()), None);
        assert_eq!(read(&[]), None);
        let mut many = question();
        many[6..8].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(read(&many), None);
        assert_eq!(read(&Record { port: 0, ..Record::new(Instance(1), 1, MESH) }.encode()), None);
    }

    #[test]
    fn fuzz_no_packet_panics() {
        let golden = [Record::new(Instance(1), 7433, MESH).encode(), question()];
        fuzz("lan", 6, &[], |case| {
            let mut mutation = Mutation::new(case);
            let mut packet = mutation.pick(&golden).clone();
            mutation.bytes(&mut packet, &golden);
            let _ = read(&packet);
        });
    }
}
