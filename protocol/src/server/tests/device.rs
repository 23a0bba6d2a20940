//! A client's side of the calls: an account, a device, its tokens, its group.

use bytes::Bytes;

use super::harness::{World, backend};
use crate::auth::client::{Login, Password, Registration, open_account_key, seal_account_key};
use crate::auth::device::{
    deletion_statement, opaque_context, registration_statement, session_statement,
};
use crate::auth::token;
use crate::client::Stretching;
use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord, EnvelopeKeys, Revocation};
use crate::env::Entropy;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, GroupId, MessageId, Sender, ServerId};
use crate::io::LinkId;
use crate::mls::Context;
use crate::mls::commit::Wish;
use crate::mls::data::GroupData;
use crate::mls::group::{Bundle, Group, LocalDevice, NewGroup, Plan};
use crate::mls::key_package::KeyPackages;
use crate::mls::rejoin::Floor;
use crate::mls::suite::Suite;
use crate::wire::message::{
    Accepted, ChannelKind, CommitBundle, Entry, Failure, Part, Reply, Request, Submit, SubmitKind,
    Token, Tokens, Username,
};

pub(super) const CHEAP: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };

pub(super) struct Device {
    pub(super) username: Username,
    pub(super) account: AccountKey,
    pub(super) local: LocalDevice,
    pub(super) entropy: Entropy,
    pub(super) tokens: Option<Tokens>,
    pub(super) packages: KeyPackages,
    pub(super) group: Option<Group>,
    pub(super) link: LinkId,
}

pub(super) fn username(name: &str) -> Username {
    Username::prepare(name).unwrap()
}

pub(super) fn password(text: &str) -> Password {
    Password::prepare(text).unwrap()
}

/// What `Hello` says: nonce and server id.
pub(super) fn hello(world: &mut World, link: LinkId) -> ([u8; 32], ServerId) {
    match world.call(link, Request::Hello).unwrap() {
        Reply::Hello { nonce, server, .. } => (nonce, server),
        other => panic!("{other:?}"),
    }
}

impl Device {
    /// A device with a session, of a new account.
    pub(super) fn new(world: &mut World, name: &str) -> Self {
        let mut device = Self::draft(world, name);
        device.register(world).unwrap();
        device.log_in(world, "secret").unwrap();
        device.register_device(world).unwrap();
        device.resume(world).unwrap();
        device
    }

    /// A device that the server has not heard of, with a connection.
    pub(super) fn draft(world: &mut World, name: &str) -> Self {
        let mut entropy = world.entropy.fork();
        let account = AccountKey::generate(backend(), &mut entropy);
        let link = world.connect();
        Self::of(world, name, account, entropy, link)
    }

    /// Another device of the same account, with a session.
    pub(super) fn sibling(&self, world: &mut World) -> Self {
        let entropy = world.entropy.fork();
        let link = world.connect();
        let name = self.username.as_str();
        let mut device = Self::of(world, name, self.account.clone(), entropy, link);
        device.log_in(world, "secret").unwrap();
        device.register_device(world).unwrap();
        device.resume(world).unwrap();
        device
    }

    fn of(
        world: &World,
        name: &str,
        account: AccountKey,
        mut entropy: Entropy,
        link: LinkId,
    ) -> Self {
        let key = DeviceKey::generate(backend(), &mut entropy);
        let id = DeviceId(entropy.array());
        let record = DeviceRecord::sign(backend(), &account, id, key.public(), 1, world.now.wall);
        Self {
            username: username(name),
            account,
            local: LocalDevice::new(key, record),
            entropy,
            tokens: None,
            packages: KeyPackages::restore(Vec::new()).unwrap(),
            group: None,
            link,
        }
    }

    pub(super) fn sender(&self) -> Sender {
        self.local.record.sender()
    }

    pub(super) fn id(&self) -> AccountId {
        self.account.account()
    }

    pub(super) fn register(&mut self, world: &mut World) -> Result<Reply, Failure> {
        let (nonce, server) = hello(world, self.link);
        let username = self.username.clone();
        let (state, request) = Registration::start(&mut self.entropy, password("secret")).unwrap();
        let start = Request::RegisterStart { username: username.clone(), request };
        let response = match world.call(self.link, start)? {
            Reply::RegisterStart { response } => response,
            other => panic!("{other:?}"),
        };
        let done = state.finish(&response, &username, server, CHEAP, &mut self.entropy).unwrap();
        let account = self.id();
        let statement = registration_statement(&nonce, server, account, &username);
        let proof = self.account.sign(backend(), &statement);
        let sealed_account_key =
            seal_account_key(backend(), &done.export_key, &self.account).unwrap();
        let upload = done.upload;
        let finish =
            Request::RegisterFinish { username, upload, account, sealed_account_key, proof };
        world.call(self.link, finish)
    }

    pub(super) fn log_in(&mut self, world: &mut World, secret: &str) -> Result<(), Failure> {
        let (ke3, finish, export_key) = self.login_until_finish(world, secret)?;
        drop(ke3);
        match world.call(self.link, finish)? {
            Reply::LoginFinish { account, sealed_account_key, tokens } => {
                assert_eq!(account, self.id());
                let sealed = &sealed_account_key;
                let opened =
                    open_account_key(backend(), &export_key.unwrap(), account, sealed).unwrap();
                assert_eq!(opened.public(), self.account.public());
                self.tokens = Some(tokens);
                Ok(())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Everything of a login but its last call. With a wrong password or an unknown user the last call is made up.
    pub(super) fn login_until_finish(
        &mut self,
        world: &mut World,
        secret: &str,
    ) -> Result<(Bytes, Request, Option<crate::auth::opaque::ExportKey>), Failure> {
        let (nonce, server) = hello(world, self.link);
        let (state, ke1) = Login::start(&mut self.entropy, password(secret)).unwrap();
        let start = Request::LoginStart { username: self.username.clone(), ke1 };
        let ke2 = match world.call(self.link, start)? {
            Reply::LoginStart { ke2 } => ke2,
            other => panic!("{other:?}"),
        };
        let binding = World::transport(crate::io::Links::One).binding;
        let context = opaque_context(&nonce, &binding, server);
        let (ke3, export_key) = match state.finish(&ke2, &self.username, server, &context, CHEAP) {
            Ok(done) => (done.ke3, Some(done.export_key)),
            Err(_) => (Bytes::from(vec![7; 64]), None),
        };
        // A new device does not know its account yet: the statement names none.
        let device = self.sender().device;
        let sender = Sender { account: AccountId([0; 32]), device };
        let statement = session_statement(&nonce, &binding, server, sender, Digest::of(&[&ke3]));
        let finish = Request::LoginFinish {
            ke3: ke3.clone(),
            device: self.sender().device,
            device_key: self.local.key.public(),
            signature: self.local.key.sign(backend(), &statement),
        };
        Ok((ke3, finish, export_key))
    }

    pub(super) fn envelope_keys(&self) -> EnvelopeKeys {
        let key = &self.local.key;
        let from = self.local.record.not_before;
        let mlkem768 = Box::new([5; 1184]);
        EnvelopeKeys::sign(backend(), key, self.sender(), 1, from, [4; 32], mlkem768)
    }

    pub(super) fn device_request(&self) -> Request {
        let record = self.local.record.clone();
        Request::DeviceRegister { record, envelope_keys: self.envelope_keys() }
    }

    pub(super) fn register_device(&mut self, world: &mut World) -> Result<Reply, Failure> {
        world.call(self.link, self.device_request())
    }

    /// The signature over the session of its connection.
    pub(super) fn proof(&self, world: &mut World, token: &Token) -> [u8; 64] {
        let (nonce, server) = hello(world, self.link);
        let binding = World::transport(crate::io::Links::One).binding;
        let hash = token::hash(token);
        let statement = session_statement(&nonce, &binding, server, self.sender(), hash);
        self.local.key.sign(backend(), &statement)
    }

    pub(super) fn resume_request(&self, world: &mut World, state_version: u64) -> Request {
        let token = self.tokens.as_ref().unwrap().access.clone();
        let signature = self.proof(world, &token);
        Request::Resume { token, sender: self.sender(), state_version, signature }
    }

    pub(super) fn resume(&mut self, world: &mut World) -> Result<Reply, Failure> {
        let request = self.resume_request(world, 1);
        world.call(self.link, request)
    }

    /// Another connection of this device, with a session.
    pub(super) fn reconnect(&mut self, world: &mut World) -> LinkId {
        self.link = world.connect();
        self.resume(world).unwrap();
        self.link
    }

    pub(super) fn refresh_request(&self, world: &mut World) -> Request {
        let token = self.tokens.as_ref().unwrap().refresh.clone();
        let signature = self.proof(world, &token);
        Request::Refresh { token, sender: self.sender(), signature }
    }

    pub(super) fn revocation(&self, device: DeviceId, world: &World) -> Request {
        let at = world.now.wall;
        Request::DeviceRevoke { revocation: Revocation::sign(backend(), &self.account, device, at) }
    }

    pub(super) fn deletion(&self, world: &mut World) -> Request {
        let (nonce, server) = hello(world, self.link);
        let statement = deletion_statement(&nonce, server, self.id(), self.sender().device);
        Request::AccountDelete { proof: self.account.sign(backend(), &statement) }
    }

    // ---- key packages and groups --------------------------------------------------------------

    pub(super) fn key_package(&mut self, world: &World, last_resort: bool) -> Bytes {
        let cx = Context { backend: backend(), entropy: &mut self.entropy, wall: world.now.wall };
        let suite = Suite::Classical;
        Bytes::from(self.packages.generate(cx, &self.local, suite, last_resort).unwrap())
    }

    pub(super) fn upload(&mut self, world: &mut World, count: usize) {
        let packages = (0..count).map(|_| self.key_package(world, false)).collect();
        let request = Request::KeyPackageUpload { packages, last_resort: None };
        world.call(self.link, request).unwrap();
    }

    pub(super) fn claim(&self, world: &mut World, account: AccountId) -> Vec<Bytes> {
        let request = Request::KeyPackageFetch { account, suite: Suite::Classical, device: None };
        match world.call(self.link, request).unwrap() {
            Reply::ClaimedKeyPackages(claimed) => {
                claimed.into_iter().filter_map(|claim| claim.package).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn group(&mut self) -> (&mut Group, &mut Entropy, &LocalDevice) {
        (self.group.as_mut().unwrap(), &mut self.entropy, &self.local)
    }

    pub(super) fn found_request(
        &mut self,
        world: &World,
        channel: ChannelId,
        kind: ChannelKind,
    ) -> Request {
        let admins = vec![self.id()];
        let data = GroupData { version: 1, admins, open: true, metadata: Digest([0; 32]) };
        self.founding(world, channel, kind, data)
    }

    /// The founding of the direct channel with an account.
    pub(super) fn found_direct_request(&mut self, world: &World, with: AccountId) -> Request {
        let channel = ChannelId::direct(self.id(), with);
        let mut admins = vec![self.id(), with];
        admins.sort_unstable();
        let data = GroupData { version: 1, admins, open: false, metadata: Digest([0; 32]) };
        super::channels::between(
            self.founding(world, channel, ChannelKind::Direct, data),
            Some(with),
        )
    }

    pub(super) fn founding(
        &mut self,
        world: &World,
        channel: ChannelId,
        kind: ChannelKind,
        data: GroupData,
    ) -> Request {
        let new = NewGroup { id: GroupId::of(channel, 1), suite: Suite::Classical, data };
        let wall = world.now.wall;
        let cx = Context { backend: backend(), entropy: &mut self.entropy, wall };
        let (group, founding) = Group::create(cx, &self.local, &new).unwrap();
        self.group = Some(group);
        Request::ChannelCreate {
            channel,
            kind,
            generation: 1,
            group_info: founding.group_info.into(),
            tree: founding.tree.into(),
            with: None,
        }
    }

    pub(super) fn found(&mut self, world: &mut World, channel: ChannelId) {
        let request = self.found_request(world, channel, ChannelKind::Group);
        assert_eq!(world.call(self.link, request).unwrap(), Reply::Done);
    }

    pub(super) fn commit(&mut self, world: &World, plan: &Plan) -> Bundle {
        let wall = world.now.wall;
        let (group, entropy, local) = self.group();
        let cx = Context { backend: backend(), entropy, wall };
        group.commit(cx, local, plan).unwrap()
    }

    pub(super) fn commit_request(
        &mut self,
        world: &World,
        channel: ChannelId,
        plan: &Plan,
    ) -> Request {
        let epoch = self.group.as_ref().unwrap().epoch();
        let bundle = self.commit(world, plan);
        Request::Commit(CommitBundle {
            channel,
            generation: 1,
            epoch,
            message: MessageId(self.entropy.array()),
            commit: Part::Inline(bundle.commit.into()),
            welcome: bundle.welcome.map(|welcome| Part::Inline(welcome.into())),
            group_info: bundle.group_info.into(),
        })
    }

    /// An external commit, from what the server has of the group; the device goes on from it.
    pub(super) fn rejoin_request(&mut self, world: &mut World, channel: ChannelId) -> Request {
        let request = Request::GroupInfoFetch { channel };
        let Reply::GroupInfo { generation, epoch, group_info, tree, .. } =
            world.call(self.link, request).unwrap()
        else {
            panic!("no GroupInfo")
        };
        let request = Request::BlobGet { hash: tree, offset: 0 };
        let Reply::Blob { chunk, .. } = world.call(self.link, request).unwrap() else {
            panic!("no tree")
        };
        let members = self.group.as_ref().unwrap().members();
        let known = members.iter().map(|member| member.record.account).collect();
        let id = GroupId::of(channel, generation);
        let floor = Floor { id, suite: Suite::Classical, epoch, known: Some(&known) };
        let wall = world.now.wall;
        let cx = Context { backend: backend(), entropy: &mut self.entropy, wall };
        let (group, bundle) = Group::rejoin(cx, &self.local, &group_info, &chunk, &floor).unwrap();
        self.group = Some(group);
        Request::Commit(CommitBundle {
            channel,
            generation,
            epoch,
            message: MessageId(self.entropy.array()),
            commit: Part::Inline(bundle.commit.into()),
            welcome: None,
            group_info: bundle.group_info.into(),
        })
    }

    pub(super) fn merge(&mut self, world: &World) {
        let wall = world.now.wall;
        let (group, entropy, _) = self.group();
        group.merge_pending(Context { backend: backend(), entropy, wall }).unwrap();
    }

    pub(super) fn discard(&mut self) {
        let (group, ..) = self.group();
        group.discard_pending().unwrap();
    }

    pub(super) fn receive(&mut self, world: &World, payload: &Part) -> crate::mls::group::Received {
        let wall = world.now.wall;
        let (group, entropy, _) = self.group();
        let cx = Context { backend: backend(), entropy, wall };
        let Part::Inline(bytes) = payload else { panic!("a blob") };
        group.receive(cx, bytes).unwrap()
    }

    /// Adds all devices of an account by a commit that is accepted.
    pub(super) fn invite(
        &mut self,
        world: &mut World,
        channel: ChannelId,
        account: AccountId,
    ) -> Accepted {
        let adds = self.claim(world, account).iter().map(|package| package.to_vec()).collect();
        let request = self.commit_request(world, channel, &Plan { adds, ..Plan::default() });
        let accepted = accepted(world.call(self.link, request));
        self.merge(world);
        accepted
    }

    /// Joins by the newest welcome in its inbox.
    pub(super) fn join(&mut self, world: &mut World) {
        let inbox = ChannelId::inbox(self.sender());
        let entry = self.read(world, inbox, 0).pop().unwrap();
        let (Part::Inline(welcome), Some(origin)) = (entry.payload, entry.origin) else {
            panic!("no welcome")
        };
        let request = Request::BlobGet { hash: origin.tree, offset: 0 };
        let tree = match world.call(self.link, request).unwrap() {
            Reply::Blob { chunk, .. } => chunk,
            other => panic!("{other:?}"),
        };
        let wall = world.now.wall;
        let cx = Context { backend: backend(), entropy: &mut self.entropy, wall };
        let joined = Group::join(cx, &self.local, &mut self.packages, &welcome, &tree).unwrap();
        self.group = Some(joined);
    }

    pub(super) fn read(&self, world: &mut World, channel: ChannelId, after: u64) -> Vec<Entry> {
        let request = Request::Fetch { channel, after, limit: 256, wait_ms: 0 };
        match world.call(self.link, request).unwrap() {
            Reply::Entries(entries) => entries.entries,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn message(&mut self, world: &World, channel: ChannelId, text: &str) -> Request {
        let wall = world.now.wall;
        let (group, entropy, local) = self.group();
        let epoch = group.epoch();
        let cx = Context { backend: backend(), entropy, wall };
        let payload = group.encrypt(cx, local, text.as_bytes()).unwrap().into();
        Request::Submit(Submit {
            channel,
            generation: 1,
            epoch,
            message: MessageId(self.entropy.array()),
            kind: SubmitKind::Application,
            payload,
        })
    }

    pub(super) fn leave_request(&mut self, world: &World, channel: ChannelId) -> Request {
        self.propose_request(world, channel, Wish::Leave)
    }

    pub(super) fn propose_request(
        &mut self,
        world: &World,
        channel: ChannelId,
        wish: Wish<'_>,
    ) -> Request {
        let wall = world.now.wall;
        let (group, entropy, local) = self.group();
        let epoch = group.epoch();
        let cx = Context { backend: backend(), entropy, wall };
        let payload = group.propose(cx, local, wish).unwrap().into();
        Request::Submit(Submit {
            channel,
            generation: 1,
            epoch,
            message: MessageId(self.entropy.array()),
            kind: SubmitKind::Proposal,
            payload,
        })
    }

    pub(super) fn say(&mut self, world: &mut World, channel: ChannelId, text: &str) -> Accepted {
        let request = self.message(world, channel, text);
        accepted(world.call(self.link, request))
    }
}

pub(super) fn accepted(reply: Result<Reply, Failure>) -> Accepted {
    match reply.unwrap() {
        Reply::Accepted(accepted) => accepted,
        other => panic!("{other:?}"),
    }
}

pub(super) fn code(reply: Result<Reply, Failure>) -> ErrorCode {
    reply.expect_err("went through").code
}
