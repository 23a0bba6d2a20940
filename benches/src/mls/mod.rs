//! MLS in several implementations behind one trait, so that each operation is measured by the same lines of code: ours
//! as the product does it, and, with the feature `peers`, OpenMLS's own provider and mls-rs.
//!
//! Every operation ends with its state persisted to a disk in memory. What can be set is set alike: public
//! handshakes, no padding, two past epochs kept, the ratchet tree beside the welcome, no path where MLS asks for none.

#[cfg(feature = "peers")]
pub mod mls_rs;
#[cfg(feature = "peers")]
pub mod openmls;
pub mod ours;

pub use qpc_protocol::mls::suite::Suite;

use crate::Error;

/// What those added need to join.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// MLSMessage without the tree.
    pub welcome: Vec<u8>,
    /// The ratchet tree.
    pub tree: Vec<u8>,
}

/// A device that is a member of one group, or of none yet. An error is a defect of the measurement.
pub trait Member: Sized {
    /// What a member is made with.
    type Kind;
    /// All that a member has on its disk, and its keys.
    type Saved: Clone;

    /// Whether members of this kind do this suite.
    fn does(kind: &Self::Kind, suite: Suite) -> bool;

    /// A member in no group; `number` tells it from the others.
    ///
    /// # Errors
    /// See the trait.
    fn new(kind: &Self::Kind, suite: Suite, number: u32) -> Result<Self, Error>;

    /// A key package, as an MLSMessage.
    ///
    /// # Errors
    /// See the trait.
    fn key_package(&mut self) -> Result<Vec<u8>, Error>;

    /// Founds a group with this member alone.
    ///
    /// # Errors
    /// See the trait.
    fn found(&mut self) -> Result<(), Error>;

    /// Adds all these in one commit and merges it: the welcome.
    ///
    /// # Errors
    /// See the trait.
    fn add(&mut self, packages: &[Vec<u8>]) -> Result<Vec<u8>, Error>;

    /// The ratchet tree as it stands.
    ///
    /// # Errors
    /// See the trait.
    fn tree(&self) -> Result<Vec<u8>, Error>;

    /// Joins.
    ///
    /// # Errors
    /// See the trait.
    fn join(&mut self, invitation: &Invitation) -> Result<(), Error>;

    /// Commits new keys of its own and merges that: the commit.
    ///
    /// # Errors
    /// See the trait.
    fn update(&mut self) -> Result<Vec<u8>, Error>;

    /// Processes and merges another's commit.
    ///
    /// # Errors
    /// See the trait.
    fn process(&mut self, commit: &[u8]) -> Result<(), Error>;

    /// Encrypts.
    ///
    /// # Errors
    /// See the trait.
    fn encrypt(&mut self, content: &[u8]) -> Result<Vec<u8>, Error>;

    /// Decrypts: the content.
    ///
    /// # Errors
    /// See the trait.
    fn decrypt(&mut self, message: &[u8]) -> Result<Vec<u8>, Error>;

    /// A copy of what is on its disk.
    fn saved(&self) -> Self::Saved;

    /// A member as it comes back from its disk.
    ///
    /// # Errors
    /// See the trait.
    fn load(saved: Self::Saved) -> Result<Self, Error>;

    /// Bytes written to its disk since the last call, keys and values.
    fn written(&mut self) -> usize;

    /// Bytes on its disk.
    fn stored(&self) -> usize;

    /// The epoch authenticator, equal for all in an epoch.
    ///
    /// # Errors
    /// See the trait.
    fn authenticator(&self) -> Result<Vec<u8>, Error>;
}

/// All implementations that are built in, one after the other.
pub trait Visitor {
    /// Is handed one of them.
    ///
    /// # Errors
    /// The visitor's.
    fn visit<M: Member>(&mut self, name: &str, kind: &M::Kind) -> Result<(), Error>;
}

/// Hands all implementations to a visitor.
///
/// # Errors
/// The visitor's.
pub fn visit_all(visitor: &mut impl Visitor) -> Result<(), Error> {
    visitor.visit::<ours::Ours>("ours, portable", &qpc_protocol::crypto::portable())?;
    visitor.visit::<ours::Ours>("ours, fast", &qpc_protocol::crypto::fast())?;
    #[cfg(feature = "peers")]
    {
        use mls_rs_crypto_rustcrypto::RustCryptoProvider;
        visitor.visit::<openmls::Stock>("OpenMLS, its RustCrypto", &())?;
        let setup = mls_rs::Setup::new(RustCryptoProvider::default());
        visitor.visit::<mls_rs::MlsRs<_>>("mls-rs, its RustCrypto", &setup)?;
    }
    Ok(())
}

/// Numbers of members to measure with: `QPC_MLS_MEMBERS`, separated by commas, or 2, 10, 100 and 1,000.
///
/// # Errors
/// If it is set to something else.
pub fn sizes() -> Result<Vec<u32>, Error> {
    let given = std::env::var("QPC_MLS_MEMBERS").unwrap_or_else(|_| "2,10,100,1000".to_owned());
    let sizes = given.split(',').map(|size| match size.trim().parse() {
        Ok(size @ 2..) => Ok(size),
        _ => Err(format!("QPC_MLS_MEMBERS: {size:?} is no number of members").into()),
    });
    sizes.collect()
}

/// A group whose founder added all others in one commit, so that no parent has a key yet. Those others were never more
/// than their key packages.
#[derive(Debug)]
pub struct Founded<S> {
    /// The founder.
    pub founder: S,
    /// One who was added and has not joined yet.
    pub invited: S,
    /// By which it joins.
    pub invitation: Invitation,
}

/// Key packages of all members but the founder, and the one whose is the first.
///
/// # Errors
/// A defect of the measurement.
pub fn packages<M: Member>(
    kind: &M::Kind,
    suite: Suite,
    members: u32,
) -> Result<(Vec<Vec<u8>>, M), Error> {
    let mut first = M::new(kind, suite, 1)?;
    let mut packages = vec![first.key_package()?];
    for number in 2..members {
        packages.push(M::new(kind, suite, number)?.key_package()?);
    }
    Ok((packages, first))
}

/// A group of `members`.
///
/// # Errors
/// A defect of the measurement.
pub fn founded<M: Member>(
    kind: &M::Kind,
    suite: Suite,
    members: u32,
) -> Result<Founded<M::Saved>, Error> {
    let (packages, invited) = packages::<M>(kind, suite, members)?;
    let mut founder = M::new(kind, suite, 0)?;
    founder.found()?;
    let invitation = Invitation { welcome: founder.add(&packages)?, tree: founder.tree()? };
    Ok(Founded { founder: founder.saved(), invited: invited.saved(), invitation })
}

/// Two members in the same epoch.
#[derive(Debug)]
pub struct Pair<S> {
    /// The one.
    pub one: S,
    /// The other.
    pub other: S,
}

/// The founder and the one invited, who joins: in a tree without a single key of a parent.
///
/// # Errors
/// A defect of the measurement.
pub fn blank<M: Member>(founded: &Founded<M::Saved>) -> Result<Pair<M::Saved>, Error> {
    let mut invited = M::load(founded.invited.clone())?;
    invited.join(&founded.invitation)?;
    agreeing(&M::load(founded.founder.clone())?, &invited)
}

/// A group of `members` in which every parent has a key: each member updates its leaf, then adds the next. The last two
/// are in the present epoch, the others have fallen behind.
///
/// # Errors
/// A defect of the measurement; fewer than two members.
pub fn full<M: Member>(
    kind: &M::Kind,
    suite: Suite,
    members: u32,
) -> Result<Pair<M::Saved>, Error> {
    let mut last = M::new(kind, suite, 0)?;
    last.found()?;
    for number in 1..members {
        let mut next = M::new(kind, suite, number)?;
        let welcome = last.add(&[next.key_package()?])?;
        next.join(&Invitation { welcome, tree: last.tree()? })?;
        let commit = next.update()?;
        if number + 1 == members {
            last.process(&commit)?;
            return agreeing(&last, &next);
        }
        last = next;
    }
    Err("a group of two at least".into())
}

fn agreeing<M: Member>(one: &M, other: &M) -> Result<Pair<M::Saved>, Error> {
    if one.authenticator()? == other.authenticator()? {
        Ok(Pair { one: one.saved(), other: other.saved() })
    } else {
        Err("the two are not in the same epoch".into())
    }
}
