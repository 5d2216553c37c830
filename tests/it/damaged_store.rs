//! The store: files that a crash or a bad disk damaged. Either they are repaired, or the agent says in
//! one explained error why it cannot start. It never panics, and the other devices are not disturbed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::harness::{Home, Mesh, PATIENCE, files_below, now, text};

/// The write-ahead logs of a home's store, oldest first. They are files of zeroes that are filled from the front.
#[track_caller]
fn wals(home: &Home) -> Vec<PathBuf> {
    let mut files = files_below(&home.path("store"));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jnl"));
    assert!(!files.is_empty(), "no write-ahead log in {:?}", files_below(&home.path("store")));
    files
}

/// How much of a write-ahead log is written: everything up to the last byte that is not zero.
#[track_caller]
fn written(wal: &PathBuf) -> u64 {
    let bytes = fs::read(wal).expect("the file can be read");
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Damages the newest write-ahead log of a device that has calls in its books, starts it, and sees what becomes of it.
#[track_caller]
fn survives(what: &str, damage: impl Fn(&fs::File, u64)) {
    let mut mesh = Mesh::named(&["attic", "bureau"]);
    let before: Vec<String> = (0..5).map(|_| mesh.homes[0].call("bureau", "append", 60)).collect();
    for id in &before {
        assert_eq!(mesh.homes[0].wait_confirmed(id, PATIENCE)["state"], "done");
    }
    mesh.homes[1].kill9();
    let wal = wals(&mesh.homes[1]).pop().expect("there is one");
    let end = written(&wal);
    let file = fs::OpenOptions::new().read(true).write(true).open(&wal).expect("the file can be opened");
    damage(&file, end);
    drop(file);

    mesh.homes[1].spawn();
    let started = now();
    let ready = loop {
        let target = &mut mesh.homes[1];
        if target.try_ask("GET", "/readyz", &[], b"").is_ok_and(|answer| answer.status == 200) {
            break true;
        }
        if target.exited().is_some() {
            break false;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: neither ready nor ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    let log = mesh.homes[1].log();
    assert!(!log.contains("panicked"), "{what}: {log}");
    if ready {
        // Repaired: it works, and what it did before it does not do again.
        mesh.wait_converged();
        // One that was meant for the store before the damage, of which its origin had not heard yet, is not run.
        let mut id = mesh.homes[0].call("bureau", "append", 60);
        if mesh.homes[0].wait_ended(&id, PATIENCE)["state"] == "undeliverable" {
            id = mesh.homes[0].call("bureau", "append", 60);
        }
        let call = mesh.homes[0].wait_confirmed(&id, PATIENCE);
        assert_eq!(call["state"], "done", "{what}: {call}");
        mesh.assert_nothing_ran_twice();
        assert_eq!(mesh.homes[1].witness().len(), 6, "{what}");
    } else {
        assert!(log.contains("store"), "{what}: the error names the store: {}", mesh.homes[1].log_tail());
    }
    // The other is not disturbed.
    let id = mesh.homes[0].call("attic", "device.info", 60);
    assert_eq!(mesh.homes[0].wait_ended(&id, PATIENCE)["state"], "done");
    assert!(!text(&mesh.homes[0].status(), "peer_id").is_empty());
}

#[test]
fn a9_a_truncated_write_ahead_log_is_repaired_or_explained() {
    survives("truncated", |file, end| file.set_len(end.saturating_sub(7)).expect("it can be cut"));
}

#[test]
fn a9_a_zeroed_page_is_repaired_or_explained() {
    survives("zeroed page", |file, end| {
        let page = end.saturating_sub(4096) / 2;
        file.write_all_at(&[0; 4096], page).expect("it can be written");
    });
}

#[test]
fn a9_a_flipped_byte_is_repaired_or_explained() {
    survives("flipped byte", |file, end| {
        let at = end * 3 / 4;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("it can be read");
        file.write_all_at(&[byte[0] ^ 0x40], at).expect("it can be written");
    });
}

#[test]
fn a9_a_garbage_tail_is_repaired_or_explained() {
    survives("garbage tail", |file, end| {
        let garbage: Vec<u8> = (0..3000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
        file.write_all_at(&garbage, end).expect("it can be written");
    });
}
