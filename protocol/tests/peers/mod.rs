//! Members of one group in whatever implementation: messages go in and out as bytes, and one script that they all have
//! to get through together. `qpc-benches` runs it with more peers.

pub(crate) mod openmls;

/// A commit on its way to the others; whoever made it has merged it already.
pub(crate) struct Committed {
    /// MLSMessage.
    pub(crate) commit: Vec<u8>,
    /// MLSMessage with the ratchet tree inside, if anybody is added.
    pub(crate) welcome: Option<Vec<u8>>,
}

/// What a received message turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Text(Vec<u8>),
    Proposal,
    Commit,
}

/// A member of a group, or one who is to become it.
pub(crate) trait Peer {
    /// The implementation, for what a failure says.
    fn kind(&self) -> String;
    /// The identity in its credential.
    fn identity(&self) -> Vec<u8>;
    fn found(&mut self);
    /// An MLSMessage with a fresh key package.
    fn key_package(&mut self) -> Vec<u8>;
    fn join(&mut self, welcome: &[u8]);
    /// Commits the adding of those whose key packages these are.
    fn add(&mut self, packages: &[Vec<u8>]) -> Committed;
    /// Commits new keys of its own.
    fn update(&mut self) -> Committed;
    /// Commits the removal of the member of this identity.
    fn remove(&mut self, identity: &[u8]) -> Committed;
    /// Proposes new keys of its own, for another to commit.
    fn propose_update(&mut self) -> Vec<u8>;
    /// Commits what was proposed.
    fn commit_proposals(&mut self) -> Committed;
    fn send(&mut self, text: &[u8]) -> Vec<u8>;
    /// Takes a message in; a commit is merged. The error says why it was refused.
    fn receive(&mut self, message: &[u8]) -> Result<Received, String>;
    fn is_member(&self) -> bool;
    fn epoch(&self) -> u64;
    fn authenticator(&self) -> Vec<u8>;
    /// Identities of all members in order of their leaves.
    fn members(&self) -> Vec<Vec<u8>>;
    /// Forgets all but what it stored, and starts again from that.
    fn restart(&mut self);
}

/// Which of several.
type At = usize;

/// One group of several peers.
struct Together<'a> {
    peers: Vec<&'a mut dyn Peer>,
    /// Who is in.
    inside: Vec<At>,
}

impl Together<'_> {
    /// All others inside follow a commit, those added join, those removed know that they are; then everybody talks.
    fn follow(&mut self, by: At, committed: &Committed, added: &[At], removed: &[At]) {
        for at in self.inside.clone() {
            if at != by {
                let took = self.peers[at].receive(&committed.commit);
                assert_eq!(took, Ok(Received::Commit), "{}", self.peers[at].kind());
            }
        }
        assert_eq!(committed.welcome.is_some(), !added.is_empty());
        for at in added {
            self.peers[*at].join(committed.welcome.as_ref().unwrap());
        }
        self.inside.retain(|at| !removed.contains(at));
        self.inside.extend(added);
        for at in removed {
            assert!(!self.peers[*at].is_member(), "{}", self.peers[*at].kind());
        }
        self.agree();
        self.talk(removed);
    }

    fn agree(&self) {
        let first = &self.peers[self.inside[0]];
        for at in &self.inside {
            let peer = &self.peers[*at];
            assert!(peer.is_member(), "{}", peer.kind());
            assert_eq!(peer.epoch(), first.epoch(), "{}", peer.kind());
            assert_eq!(peer.authenticator(), first.authenticator(), "{}", peer.kind());
            assert_eq!(peer.members(), first.members(), "{}", peer.kind());
        }
        assert_eq!(first.members().len(), self.inside.len());
    }

    /// Everybody writes twice and is read by everybody inside, by nobody outside, by nobody twice.
    fn talk(&mut self, outside: &[At]) {
        for by in self.inside.clone() {
            for count in 0..2 {
                let text =
                    format!("{by} in epoch {}, {count}", self.peers[by].epoch()).into_bytes();
                let message = self.peers[by].send(&text);
                assert!(!message.windows(text.len()).any(|part| part == text));
                for at in self.inside.clone() {
                    if at != by {
                        let read = self.peers[at].receive(&message);
                        assert_eq!(
                            read,
                            Ok(Received::Text(text.clone())),
                            "{}",
                            self.peers[at].kind()
                        );
                        assert!(self.peers[at].receive(&message).is_err(), "a key used twice");
                    }
                }
                for at in outside {
                    assert!(self.peers[*at].receive(&message).is_err());
                }
            }
        }
        for at in self.inside.clone() {
            self.peers[at].restart();
        }
    }
}

/// The life of a group of four: the first founds it, each commits at least once, and each of them has to follow the
/// commits of the others. After every step all agree and all read all; then each starts again from what it stored.
pub(crate) fn live_together(peers: [&mut dyn Peer; 4]) {
    let mut group = Together { peers: peers.into_iter().collect(), inside: vec![0] };
    group.peers[0].found();

    let packages: Vec<_> = [1, 2].map(|at| group.peers[at].key_package()).into();
    let added = group.peers[0].add(&packages);
    group.follow(0, &added, &[1, 2], &[]);

    let package = group.peers[3].key_package();
    let added = group.peers[1].add(&[package]);
    group.follow(1, &added, &[3], &[]);

    for by in 0..4 {
        let updated = group.peers[by].update();
        group.follow(by, &updated, &[], &[]);
    }

    // Proposed by each, committed by the next.
    for by in 0..4 {
        let proposal = group.peers[by].propose_update();
        for at in 0..4 {
            if at != by {
                let took = group.peers[at].receive(&proposal);
                assert_eq!(took, Ok(Received::Proposal), "{}", group.peers[at].kind());
            }
        }
        let next = (by + 1) % 4;
        let committed = group.peers[next].commit_proposals();
        group.follow(next, &committed, &[], &[]);
    }

    let third = group.peers[2].identity();
    let removed = group.peers[3].remove(&third);
    group.follow(3, &removed, &[], &[2]);

    // A blank leaf is filled again, by another committer.
    let package = group.peers[2].key_package();
    let added = group.peers[1].add(&[package]);
    group.follow(1, &added, &[2], &[]);

    let fourth = group.peers[3].identity();
    let removed = group.peers[0].remove(&fourth);
    group.follow(0, &removed, &[], &[3]);
    let first = group.peers[0].identity();
    let removed = group.peers[2].remove(&first);
    group.follow(2, &removed, &[], &[0]);
}
