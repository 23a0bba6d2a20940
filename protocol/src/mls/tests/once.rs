//! What is verified once, and when it is verified again.

use super::world::{Device, World, adding};
use crate::mls::group::{Group, LocalDevice, Plan};
use crate::mls::suite::Suite;
use crate::mls::{Context, MlsError};

/// An operation of the group without a restart behind it.
fn run<T>(
    device: &mut Device,
    operation: impl FnOnce(&mut Group, Context<'_>, &LocalDevice) -> Result<T, MlsError>,
) -> T {
    let cx = Context { backend: device.backend, entropy: &mut device.entropy, wall: device.wall };
    operation(device.group.as_mut().unwrap(), cx, &device.local).unwrap()
}

fn is_judged(device: &Device) -> bool {
    device.group().judged.is_some()
}

#[test]
fn a_device_that_was_changed_is_compared_again() {
    let (alice, bob) = (Device::new(1), Device::new(2));
    let (local, backend) = (&alice.local, alice.backend);
    assert_eq!(local.check(backend), Ok(()));
    let mut of_another_key = local.clone();
    of_another_key.record = bob.local.record.clone();
    assert_eq!(of_another_key.check(backend), Err(MlsError::Record));
    let mut wrongly_signed = local.clone();
    wrongly_signed.record.signature[40] ^= 1;
    assert_eq!(wrongly_signed.check(backend), Err(MlsError::Record));
    wrongly_signed.record.signature[40] ^= 1;
    assert_eq!(wrongly_signed.check(backend), Ok(()));
    assert_eq!(local.check(backend), Ok(()));
}

#[test]
fn a_pending_commit_is_judged_again_only_after_a_restart() {
    let changes = [false, true].map(|restart| {
        let mut devices = [Device::new(1), Device::new(2)];
        World::new(Suite::Classical, &mut devices);
        let plan = adding(&[Device::new(3).package(Suite::Classical, false)]);
        let alice = &mut devices[0];
        run(alice, |group, cx, local| group.commit(cx, local, &plan));
        assert!(is_judged(alice));
        if restart {
            alice.restart();
            assert!(!is_judged(alice));
        }
        let change = run(alice, |group, cx, _| group.merge_pending(cx));
        assert!(!is_judged(alice));
        (change, alice.group().authenticator())
    });
    assert_eq!(changes[0], changes[1]);
}

#[test]
fn a_judgement_goes_with_its_commit() {
    let mut devices = [Device::new(1), Device::new(2)];
    World::new(Suite::Classical, &mut devices);
    let plan = Plan::default();
    let [alice, bob] = &mut devices;
    let won = run(bob, |group, cx, local| group.commit(cx, local, &plan)).commit;
    let losing = |alice: &mut Device, lose: &dyn Fn(&mut Device)| {
        run(alice, |group, cx, local| group.commit(cx, local, &plan));
        assert!(is_judged(alice));
        lose(alice);
        assert!(!is_judged(alice) && !alice.group().has_pending());
    };
    losing(alice, &|alice| run(alice, |group, _, _| group.discard_pending()));
    losing(alice, &|alice| run(alice, |group, _, _| group.rollback()));
    losing(alice, &|alice| drop(run(alice, |group, cx, _| group.receive(cx, &won))));
}
