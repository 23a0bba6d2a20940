//! The rows of `mls_bytes`.

use qpc_benches::Error;
use qpc_benches::mls::{Member, Suite, Visitor, blank, founded, full, sizes};

pub(crate) struct Bytes;

impl Visitor for Bytes {
    fn visit<M: Member>(&mut self, name: &str, kind: &M::Kind) -> Result<(), Error> {
        for suite in [Suite::Classical, Suite::Hybrid] {
            if !M::does(kind, suite) {
                continue;
            }
            for members in sizes()? {
                let blank = blank::<M>(&founded::<M>(kind, suite, members)?)?;
                let full = full::<M>(kind, suite, members)?;
                for (pair, tree) in [(blank, "blank tree"), (full, "full tree")] {
                    let (mut one, mut other) = (M::load(pair.one)?, M::load(pair.other)?);
                    let row = |what: &str, bytes: usize| {
                        println!("{what}, {tree}\t{suite:?}\t{members}\t{name}\t{bytes}");
                    };
                    row("stored", one.stored());
                    let message = one.encrypt(&[0; 1024])?;
                    row("message sent", one.written());
                    other.decrypt(&message)?;
                    row("message received", other.written());
                    let commit = one.update()?;
                    row("commit made and merged", one.written());
                    other.process(&commit)?;
                    row("commit received", other.written());
                }
            }
        }
        Ok(())
    }
}
