//! Items that a hostile holder leaves out, and how they come from an honest one.

use std::collections::VecDeque;

use memory_core::compaction::Trigger;
use memory_core::group::SignedGroup;
use memory_core::holes::ItemAt;
use memory_core::replica::{Frame, Sent};
use tempfile::TempDir;

use super::tests::{authors, exchange, exchange_through, found, open, put, said, views};
use super::*;
use crate::mesh::identity::Ed25519Verifier;

/// The second holder hands groups on without what they say (erased, or missing), claims to have all of it, and answers nothing.
fn hostile(erased: bool) -> impl FnMut(bool, Frame) -> Frame {
    move |from_it, frame| {
        if !from_it {
            return frame;
        }
        if let Frame::Groups(groups) = frame {
            let emptied = |sent: Sent| {
                let group: SignedGroup = sent.verify(&super::tests::WS, &Ed25519Verifier).unwrap();
                let mut group = group.only(|_| false);
                if erased {
                    (0..group.slots().len()).for_each(|at| group.erase(at));
                }
                Sent::of(&group)
            };
            return Frame::Groups(groups.into_iter().map(emptied).collect());
        }
        if let Frame::Found { chain, to, .. } = frame { Frame::Found { chain, to, items: Vec::new() } } else { frame }
    }
}

/// A hostile holder first, an honest one later: nothing is missing, and what is forgotten stays so.
#[test]
fn k2_what_a_hostile_holder_leaves_out_comes_from_an_honest_one() {
    for erased in [true, false] {
        let homes: Vec<TempDir> = (0..4).map(|_| TempDir::new().unwrap()).collect();
        let [mut author, mut thief, mut newcomer, mut later] = [0, 1, 2, 3].map(|n| open(homes[n].path()));
        author
            .append((0..300).map(|n| said(&format!("m{n}"), &format!("the code of box {n} is {n}4"))).collect(), false)
            .unwrap();
        let gone = put(&mut author, "gone", "the code of the safe is 4711").key;
        put(&mut author, "kept", "the boiler is at 1.6 bar");
        author.compact(Trigger::Asked { keep: 0 }).unwrap();
        exchange(&mut author, &mut thief);
        author.forget(&Selection::Keys(vec![gone])).unwrap();
        put(&mut author, "new", "the meter showed 1207");
        exchange(&mut author, &mut thief);
        // Each begins with the thief. One of them is opened anew before it meets somebody honest.
        for it in [&mut newcomer, &mut later] {
            let all = authors(&[&author, &*it]);
            exchange_through(it, &mut thief, &all, hostile(erased));
            assert_eq!(it.heads, thief.heads, "it has all groups, and nothing of what they say");
            assert_eq!((it.reader().stats().messages, it.reader().stats().forgotten), (0, 1));
            assert!(it.holes.count_lacking() > 300);
        }
        drop(newcomer);
        let mut newcomer = open(homes[2].path());
        exchange(&mut newcomer, &mut author);
        views(&newcomer, &author);
        assert!(found(&mut newcomer, "boiler pressure bar").contains(&"kept".to_owned()));
        // Who was mended mends others: the author need not be there.
        exchange(&mut later, &mut newcomer);
        views(&later, &author);
        assert_eq!(exchange(&mut later, &mut author), 4, "what all have forgotten is not asked for");
        assert_eq!(put(&mut later, "gone", "the code of the safe is 4711").outcome, Outcome::Forgotten);
        drop((newcomer, later));
        let [newcomer, later] = [2, 3].map(|n| open(homes[n].path()));
        views(&newcomer, &author);
        views(&later, &author);
        let chain = author.chain();
        assert_eq!(later.holes.hash(&chain, u64::MAX), author.holes.hash(&chain, u64::MAX));
    }
}

/// What was forgotten here is not taken again from a holder that has kept it, and another item than the one that was signed ends
/// the session.
#[test]
fn k2_a_hole_takes_only_what_was_signed_and_is_not_forgotten() {
    let homes: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let [mut author, mut thief, mut two] = [0, 1, 2].map(|n| open(homes[n].path()));
    let key = put(&mut author, "a", "the code of the safe is 4711").key;
    put(&mut author, "b", "the boiler is at 1.6 bar");
    let all = authors(&[&author]);
    exchange(&mut author, &mut thief);
    exchange_through(&mut two, &mut thief, &all, hostile(true));
    assert_eq!(two.holes.count_lacking(), 2);
    // It is forgotten where it never was; the thief, who has it still, is asked for it.
    let kept = [1, 2].map(|seq| author.group(&author.chain(), seq).unwrap().unwrap());
    let item = |seq: usize| kept[seq - 1].items().next().unwrap().1.clone();
    author.forget(&Selection::Keys(vec![key])).unwrap();
    let ask = |two: &mut Workspace, author: &mut Workspace, items: Vec<(ItemAt, memory_core::item::Item)>| {
        let ((mut session, _), (mut other, hello)) = (two.begin_session().unwrap(), author.begin_session().unwrap());
        let mut waiting = VecDeque::from([(false, hello)]);
        let mut hello_back = Some(two.begin_session().unwrap().1);
        while let Some((to_author, frame)) = waiting.pop_front() {
            if let Frame::Found { chain, to, .. } = frame {
                return two.handle_frame(session, Frame::Found { chain, to, items }, &all).unwrap();
            }
            let (holder, of) = if to_author { (&mut *author, &mut other) } else { (&mut *two, &mut session) };
            let replied = holder.handle_frame(of.clone(), frame, &all).unwrap();
            assert_eq!(replied.broken, None);
            *of = replied.session;
            waiting.extend(hello_back.take().map(|hello| (true, hello)));
            waiting.extend(replied.frames.into_iter().map(|frame| (!to_author, frame)));
        }
        panic!("it asked for nothing");
    };
    let at = |seq| ItemAt { seq, index: 0 };
    let replied = ask(&mut two, &mut author, vec![(at(1), item(2))]);
    assert!(replied.broken.is_some(), "another item than the one that was signed");
    assert_eq!(two.holes.count_lacking(), 2);
    let replied = ask(&mut two, &mut author, vec![(at(1), item(1)), (at(2), item(2))]);
    assert_eq!((replied.broken, replied.taken), (None, 1));
    assert_eq!(two.holes.count_lacking(), 0);
    assert_eq!((two.reader().stats().messages, two.reader().stats().forgotten), (1, 1));
    drop(two);
    let two = open(homes[2].path());
    assert_eq!((two.reader().stats().messages, two.holes.count_lacking()), (1, 0));
    assert_eq!(super::tests::files_with(homes[2].path(), "safe is 4711"), 0, "it was never written");
}
