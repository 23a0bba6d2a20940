//! A member whose groups go straight into the store: no honest server has looked at them.

use std::time::Duration;

use bytes::Bytes;
use qpc_protocol::crypto::hybrid::EnvelopeSecrets;
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::crypto::portable;
use qpc_protocol::env::Entropy;
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, GroupId, MessageId, Sender};
use qpc_protocol::mls::Context;
use qpc_protocol::mls::data::GroupData;
use qpc_protocol::mls::group::{Group, LocalDevice, NewGroup, Plan};
use qpc_protocol::mls::public::PublicState;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::op::{self, AccountRow, Commit, Member, StoreOp, StoreReply};
use qpc_protocol::wire::message::{ChannelKind, Part, Username};
use qpc_sim::world::World;

pub(crate) struct Stranger {
    local: LocalDevice,
    pub(crate) sender: Sender,
    entropy: Entropy,
    /// It alone is to rule what it begins.
    pub(crate) alone: bool,
    /// A third that it takes along.
    pub(crate) third: Option<AccountId>,
    /// Whose group its own is to be called, some epochs on.
    pub(crate) poses_as: Option<ChannelId>,
    /// What it began last: channel, generation, the group as it has it and as a server does.
    present: Option<(ChannelId, u32, Group, PublicState)>,
}

/// How long entries are kept.
const KEPT: Duration = Duration::from_secs(86_400);

impl Stranger {
    /// An account with one device, in the directory.
    pub(crate) fn new(world: &mut World) -> Self {
        let (backend, wall) = (portable(), world.now.wall);
        let mut entropy = Entropy::from_seed([66; 32]);
        let account = AccountKey::generate(backend, &mut entropy);
        let key = DeviceKey::generate(backend, &mut entropy);
        let device = DeviceId([6; 16]);
        let record = DeviceRecord::sign(backend, &account, device, key.public(), 1, wall);
        let sender = record.sender();
        let envelope_keys =
            EnvelopeSecrets::generate(&mut entropy).publish(backend, &key, sender, 1, wall);
        let row = AccountRow {
            username: Username::prepare("stranger").unwrap(),
            account: sender.account,
            opaque_record: Bytes::from_static(b"a record"),
            sealed_account_key: Bytes::from_static(b"a key"),
            created: wall,
        };
        let put = StoreOp::PutDevice {
            record: record.clone(),
            envelope_keys,
            most: 1,
            at: wall,
            expires: wall,
        };
        let replies = world.store.apply(&[StoreOp::CreateAccount(row), put]);
        assert!(matches!(replies.as_slice(), [StoreReply::Done, StoreReply::Told { .. }]));
        Self {
            local: LocalDevice::new(key, record),
            sender,
            entropy,
            alone: false,
            third: None,
            poses_as: None,
            present: None,
        }
    }

    /// Begins a generation of a direct channel, whatever its id, and adds an account's devices to it.
    pub(crate) fn begin(
        &mut self,
        world: &mut World,
        channel: ChannelId,
        with: AccountId,
        generation: u32,
        suite: Suite,
    ) {
        let (backend, wall, sender) = (portable(), world.now.wall, self.sender);
        let id = GroupId::of(self.poses_as.unwrap_or(channel), generation);
        let new = NewGroup { id, suite, data: self.rule(with) };
        let cx = Context { backend, entropy: &mut self.entropy, wall };
        let (group, founding) = Group::create(cx, &self.local, &new).unwrap();
        let member = Member { sender, device_key: self.local.record.device_key };
        let (info, tree) = (&founding.group_info, &founding.tree);
        let mut state = PublicState::create(backend, new.id, &member, info, tree).unwrap();
        let group_info = Bytes::from(founding.group_info);
        let expires = wall.plus(KEPT);
        let begin = match generation {
            1 => StoreOp::CreateChannel {
                channel,
                kind: ChannelKind::Direct,
                generation,
                creator: sender,
                with: None,
                group: state.take_ops(),
                group_info,
                at: wall,
            },
            _ => StoreOp::ResetChannel(op::Reset {
                channel,
                generation,
                founder: sender,
                message: op::reset_message(&group_info),
                hash: Digest([u8::try_from(generation).unwrap(); 32]),
                group: state.take_ops(),
                group_info,
                at: wall,
                expires,
            }),
        };
        let replies = world.store.apply(&[begin]);
        assert!(matches!(replies[..], [StoreReply::Done | StoreReply::Appended { .. }]));
        self.present = Some((channel, generation, group, state));
        if self.poses_as.is_some() {
            (0..9).for_each(|_| self.commit(world, &Plan { update: true, ..Plan::default() }));
        }
        let mut adds = Vec::new();
        for account in [with].into_iter().chain(self.third) {
            let claim = StoreOp::ClaimKeyPackages { account, suite, device: None, at: wall };
            let replies = world.store.apply(&[claim]);
            let [StoreReply::Claimed(claimed)] = replies.as_slice() else { panic!("{replies:?}") };
            adds.extend(claimed.iter().map(|of| of.package.clone().unwrap().to_vec()));
        }
        self.commit(world, &Plan { adds, ..Plan::default() });
    }

    /// Makes itself the only admin of the group that it began.
    pub(crate) fn rule_alone(&mut self, world: &mut World) {
        self.alone = true;
        let data = GroupData { version: 2, ..self.rule(self.sender.account) };
        self.commit(world, &Plan { data: Some(data), ..Plan::default() });
    }

    /// Roles for two accounts, or for itself.
    fn rule(&self, with: AccountId) -> GroupData {
        let mut admins = vec![self.sender.account];
        if !self.alone {
            admins.push(with);
        }
        admins.sort_unstable();
        GroupData { version: 1, admins, open: false, metadata: Digest([0; 32]) }
    }

    /// A commit in the group that it began last.
    fn commit(&mut self, world: &mut World, plan: &Plan) {
        let (backend, wall, sender) = (portable(), world.now.wall, self.sender);
        let (channel, generation, group, state) = self.present.as_mut().unwrap();
        let epoch = group.epoch();
        let cx = Context { backend, entropy: &mut self.entropy, wall };
        let bundle = group.commit(cx, &self.local, plan).unwrap();
        let cx = Context { backend, entropy: &mut self.entropy, wall };
        group.merge_pending(cx).unwrap();
        let welcome = bundle.welcome.as_deref();
        let checked = state.commit(sender, &bundle.commit, welcome, &bundle.group_info).unwrap();
        let number = u8::try_from(u64::from(*generation) * 16 + epoch).unwrap();
        let commit = Commit {
            channel: *channel,
            generation: *generation,
            epoch,
            sender,
            message: MessageId([100 + number; 16]),
            hash: Digest([100 + number; 32]),
            commit: Part::Inline(bundle.commit.into()),
            welcomes: checked.welcomes,
            group_info: bundle.group_info.into(),
            tree: checked.tree.map(Bytes::from),
            group: state.take_ops(),
            adds: checked.adds,
            removes: Vec::new(),
            at: wall,
            expires: wall.plus(KEPT),
        };
        let replies = world.store.apply(&[StoreOp::Commit(commit)]);
        assert!(matches!(replies.as_slice(), [StoreReply::Appended { .. }]), "{replies:?}");
    }
}
