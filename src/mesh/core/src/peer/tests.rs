//! What goes out in frames of bounded size.

use crate::entry::SignedEntry;
use crate::frame::Frame;
use crate::limits;
use crate::membership::in_frames;
use crate::test_kit::Net;

#[test]
fn many_entries_come_in_frames_of_bounded_size() {
    let net = Net::apart(1);
    let genesis = net.peer(0).trust.records_in_order().remove(0);
    let entry = |len: usize| SignedEntry::new(genesis.entry.clone(), vec![0; len].into(), genesis.signature);
    let lens = [1, 100, limits::SYNC_BYTES_MAX / 2, limits::SYNC_BYTES_MAX / 2, 7, limits::SYNC_BYTES_MAX, 9];
    let frames = in_frames(lens.into_iter().map(entry));
    let sizes: Vec<Vec<usize>> = frames
        .iter()
        .map(|frame| {
            let Frame::Entries { entries, .. } = frame else { panic!("no {frame:?}") };
            entries.iter().map(|item| item.entry.bytes.len()).collect()
        })
        .collect();
    assert_eq!(sizes.concat(), lens);
    assert_eq!(sizes.len(), 4);
    assert!(sizes.iter().all(|frame| frame.iter().sum::<usize>() <= limits::SYNC_BYTES_MAX), "{sizes:?}");
}
