//! A group of many members, scaled down: that everybody ends in the same epoch with all messages, on both stores.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use qpc_benches::members::{Done, Plan, measure};
use qpc_benches::town::InMemory;
use qpc_protocol::mls::suite::Suite;
use qpc_server::store::SqliteStore;
use zeroize::Zeroizing;

fn check(done: &Done, plan: Plan) {
    assert_eq!(done.messages, plan.messages);
    assert_eq!(done.members as usize, plan.members + plan.adds - plan.removes);
    let of = |name: &str| {
        let step = done.steps.iter().find(|step| step.name == name);
        step.unwrap_or_else(|| panic!("no step {name}")).clone()
    };
    let changes = of("make an admin").count + plan.adds + plan.removes + plan.updates;
    assert_eq!(of("create").count, plan.members);
    assert_eq!(done.epoch, done.created_in + changes as u64);
    assert_eq!(of("join").count, plan.online - 1);
    assert!(of("join").spent.down > of("join").spent.up);
    assert_eq!((of("add").count, of("remove").count), (plan.adds, plan.removes));
    assert!(of("message").spent.persisted > 0);
    assert_eq!(of("catch up").count, 50);
}

#[test]
fn sixty_members_live_and_one_of_them_comes_back_after_fifty_commits() {
    let plan = Plan {
        members: 60,
        online: 5,
        adds: 20,
        removes: 20,
        updates: 20,
        messages: 100,
        suite: Suite::Classical,
    };
    check(&measure(plan, Box::new(InMemory::default())).unwrap(), plan);
}

#[test]
fn the_same_on_a_disk_and_hybrid() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("store"), Zeroizing::new([5; 32])).unwrap();
    let plan = Plan {
        members: 40,
        online: 3,
        adds: 17,
        removes: 17,
        updates: 17,
        messages: 34,
        suite: Suite::Hybrid,
    };
    check(&measure(plan, Box::new(store)).unwrap(), plan);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let none = Plan {
        members: 3,
        online: 1,
        adds: 0,
        removes: 0,
        updates: 0,
        messages: 0,
        suite: Suite::Hybrid,
    };
    assert!(measure(none, Box::new(InMemory::default())).is_err());
    let more = Plan { online: 2, removes: 2, ..none };
    assert!(measure(more, Box::new(InMemory::default())).is_err());
}
