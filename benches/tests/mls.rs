//! Every implementation that is measured does what is measured, in groups made as for the measurement.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use qpc_benches::Error;
use qpc_benches::mls::{Member, Pair, Suite, Visitor, blank, founded, full, visit_all};

struct Lives(usize);

impl Visitor for Lives {
    fn visit<M: Member>(&mut self, name: &str, kind: &M::Kind) -> Result<(), Error> {
        for suite in [Suite::Classical, Suite::Hybrid] {
            if !M::does(kind, suite) {
                continue;
            }
            for members in [2, 3, 6] {
                lives::<M>(name, blank::<M>(&founded::<M>(kind, suite, members)?)?)?;
                lives::<M>(name, full::<M>(kind, suite, members)?)?;
                self.0 += 1;
            }
        }
        Ok(())
    }
}

fn lives<M: Member>(name: &str, pair: Pair<M::Saved>) -> Result<(), Error> {
    let (mut one, mut other) = (M::load(pair.one)?, M::load(pair.other)?);
    assert_eq!((one.written(), other.written()), (0, 0), "{name}");
    for _ in 0..2 {
        let before = one.authenticator()?;
        let message = one.encrypt(b"hello")?;
        assert_eq!(other.decrypt(&message)?, b"hello", "{name}");
        assert!(other.decrypt(&message).is_err(), "{name} reads a message twice");
        let commit = one.update()?;
        other.process(&commit)?;
        assert_ne!(one.authenticator()?, before, "{name}");
        assert_eq!(one.authenticator()?, other.authenticator()?, "{name}");
        assert!(one.written() > 0 && other.written() > 0, "{name}");
        // Whatever was done is on the disk.
        let (as_one, as_other) = (one.authenticator()?, other.authenticator()?);
        (one, other) = (M::load(one.saved())?, M::load(other.saved())?);
        assert_eq!((one.authenticator()?, other.authenticator()?), (as_one, as_other), "{name}");
        (one, other) = (other, one);
    }
    Ok(())
}

#[test]
fn every_implementation_lives_through_what_is_measured() {
    let mut seen = Lives(0);
    visit_all(&mut seen).unwrap();
    // Ours on two backends in both suites; of the peers OpenMLS in both, mls-rs in one.
    let kinds = if cfg!(feature = "peers") { 7 } else { 4 };
    assert_eq!(seen.0, kinds * 3);
}
