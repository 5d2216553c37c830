//! Contents go out in frames of bounded size.

use crate::entry::SignedEntry;
use crate::frame::Frame;
use crate::limits;
use crate::membership::in_frames;
use crate::test_kit::Net;

#[test]
fn many_entries_come_in_frames_of_bounded_size() {
    let net = Net::apart(1);
    let genesis = net.peer(0).trust.records_in_order().remove(0);
    let around = genesis.bytes.len();
    let entry = |len: usize| {
        let body = vec![0; len.saturating_sub(around)];
        SignedEntry::trusted(&genesis.bytes, genesis.signature, &body).unwrap()
    };
    let (half, one) = (limits::SYNC_BYTES_MAX / 2, around);
    let lens = [one, one + 100, half, half, one + 7, limits::SYNC_BYTES_MAX, one + 9];
    let frames = in_frames(lens.into_iter().map(entry));
    let sizes: Vec<Vec<usize>> = frames
        .iter()
        .map(|frame| {
            let Frame::Entries { entries, .. } = frame else { panic!("no {frame:?}") };
            entries.iter().map(|item| item.entry.len()).collect()
        })
        .collect();
    assert_eq!(sizes.concat(), lens);
    assert_eq!(sizes.len(), 4);
    assert!(sizes.iter().all(|frame| frame.iter().sum::<usize>() <= limits::SYNC_BYTES_MAX), "{sizes:?}");
}
