//! The operations, each written once. Groups are made only for what the filter lets through.

use std::cell::{OnceCell, RefCell};

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion};
use qpc_benches::Error;
use qpc_benches::mls::{
    Founded, Member, Pair, Suite, Visitor, blank, founded, full, packages, sizes,
};

/// Above this many members only what is asked of a member is measured, not what changes the group.
const MOST_TO_CHANGE: u32 = 1_000;
/// The content of a message.
const CONTENT: [u8; 1024] = [0x5A; 1024];

pub(crate) struct Table<'a>(pub(crate) &'a mut Criterion);

impl Visitor for Table<'_> {
    fn visit<M: Member>(&mut self, name: &str, kind: &M::Kind) -> Result<(), Error> {
        for suite in [Suite::Classical, Suite::Hybrid] {
            if !M::does(kind, suite) {
                continue;
            }
            let mut group = self.0.benchmark_group(format!("mls/key package/{suite:?}"));
            group.bench_function(name, |b| {
                let new = || M::new(kind, suite, 0).unwrap();
                let make = |mut member: M| (member.key_package().unwrap(), member);
                b.iter_batched(new, make, BatchSize::SmallInput);
            });
            group.finish();
            for members in sizes()? {
                let world = World::<M>::new(kind, suite, members);
                self.messages(name, &world);
                if members <= MOST_TO_CHANGE {
                    self.changes(name, &world);
                }
            }
        }
        Ok(())
    }
}

/// Groups of one size, made when first asked for.
struct World<'a, M: Member> {
    kind: &'a M::Kind,
    suite: Suite,
    members: u32,
    packages: OnceCell<Vec<Vec<u8>>>,
    founded: OnceCell<Founded<M::Saved>>,
    blank: OnceCell<Pair<M::Saved>>,
    full: OnceCell<Pair<M::Saved>>,
}

impl<'a, M: Member> World<'a, M> {
    fn new(kind: &'a M::Kind, suite: Suite, members: u32) -> Self {
        let (packages, founded) = (OnceCell::new(), OnceCell::new());
        let (blank, full) = (OnceCell::new(), OnceCell::new());
        Self { kind, suite, members, packages, founded, blank, full }
    }

    fn packages(&self) -> &[Vec<u8>] {
        let make = || packages::<M>(self.kind, self.suite, self.members).unwrap().0;
        self.packages.get_or_init(make)
    }

    fn founded(&self) -> &Founded<M::Saved> {
        self.founded.get_or_init(|| founded::<M>(self.kind, self.suite, self.members).unwrap())
    }

    fn pair(&self, tree: Tree) -> &Pair<M::Saved> {
        match tree {
            Tree::Blank => self.blank.get_or_init(|| blank::<M>(self.founded()).unwrap()),
            Tree::Full => {
                self.full.get_or_init(|| full::<M>(self.kind, self.suite, self.members).unwrap())
            }
        }
    }
}

/// Whether the parents have keys.
#[derive(Clone, Copy)]
enum Tree {
    Blank,
    Full,
}

impl Table<'_> {
    fn group<M: Member>(
        &mut self,
        operation: &str,
        world: &World<'_, M>,
    ) -> BenchmarkGroup<'_, WallTime> {
        let World { suite, members, .. } = world;
        let mut group = self.0.benchmark_group(format!("mls/{operation}/{suite:?}/{members}"));
        if *members >= MOST_TO_CHANGE {
            group.sample_size(10);
        }
        group
    }

    fn messages<M: Member>(&mut self, name: &str, world: &World<'_, M>) {
        self.group("encrypt 1 KiB", world).bench_function(name, |b| {
            let mut sender = M::load(world.pair(Tree::Blank).one.clone()).unwrap();
            b.iter(|| sender.encrypt(&CONTENT).unwrap());
        });
        self.group("decrypt 1 KiB", world).bench_function(name, |b| {
            let pair = world.pair(Tree::Blank);
            let mut sender = M::load(pair.one.clone()).unwrap();
            let receiver = RefCell::new(M::load(pair.other.clone()).unwrap());
            let encrypt = || sender.encrypt(&CONTENT).unwrap();
            let decrypt = |message: Vec<u8>| receiver.borrow_mut().decrypt(&message).unwrap();
            b.iter_batched(encrypt, decrypt, BatchSize::SmallInput);
        });
        self.group("join", world).bench_function(name, |b| {
            let founded = world.founded();
            let join = |mut member: M| {
                member.join(&founded.invitation).unwrap();
                member
            };
            b.iter_batched(
                || M::load(founded.invited.clone()).unwrap(),
                join,
                BatchSize::PerIteration,
            );
        });
        self.group("load", world).bench_function(name, |b| {
            let pair = world.pair(Tree::Blank);
            let load = |saved| M::load(saved).unwrap();
            b.iter_batched(|| pair.other.clone(), load, BatchSize::SmallInput);
        });
    }

    fn changes<M: Member>(&mut self, name: &str, world: &World<'_, M>) {
        self.group("create, add all others", world).bench_function(name, |b| {
            let packages = world.packages();
            let new = || M::new(world.kind, world.suite, 0).unwrap();
            let create = |mut member: M| {
                member.found().unwrap();
                (member.add(packages).unwrap(), member)
            };
            b.iter_batched(new, create, BatchSize::PerIteration);
        });
        for (tree, of) in [(Tree::Blank, "blank tree"), (Tree::Full, "full tree")] {
            self.group(&format!("self-update, {of}"), world).bench_function(name, |b| {
                let pair = world.pair(tree);
                let load = || M::load(pair.one.clone()).unwrap();
                let update = |mut member: M| (member.update().unwrap(), member);
                b.iter_batched(load, update, BatchSize::PerIteration);
            });
            self.group(&format!("process a commit, {of}"), world).bench_function(name, |b| {
                let pair = world.pair(tree);
                let commit = M::load(pair.one.clone()).unwrap().update().unwrap();
                let process = |mut member: M| {
                    member.process(&commit).unwrap();
                    member
                };
                let load = || M::load(pair.other.clone()).unwrap();
                b.iter_batched(load, process, BatchSize::PerIteration);
            });
        }
    }
}
