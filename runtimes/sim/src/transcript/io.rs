//! Inputs and outputs of machines.

use qpc_protocol::error::CloseCode;
use qpc_protocol::io::{
    BatchId, Binding, BindingKind, ConnId, Gone, Input, LinkId, Links, Output, Page, Transport,
};
use qpc_protocol::server::audit::AuditEvent;
use qpc_protocol::store::batch::Batch;
use serde_json::Value;

use super::json::{Json, camel, fields, hex, named, object, unhex, variant};

/// An input but for bytes, of which a transcript says where they come from.
pub(super) fn input(input: &Input<'_>) -> Value {
    match input {
        Input::Connected(conn, transport) => named("connected", fields!(conn, transport)),
        Input::Disconnected(conn, why) => named("disconnected", fields!(conn, why)),
        Input::Accepted(conn, link) => named("accepted", fields!(conn, link)),
        Input::Closed(link, why) => named("closed", fields!(link, why)),
        Input::Writable(link, credit) => named("writable", fields!(link, credit)),
        Input::Persisted(batch, Ok(())) => named("persisted", fields!(batch)),
        Input::Loaded(load, Ok(records)) => {
            let records = &records.len();
            named("loaded", fields!(load, records))
        }
        Input::Stored(op, Ok(reply)) => named("stored", fields!(op, reply)),
        Input::Computed(job, _) => named("computed", fields!(job)),
        Input::Tick => "tick".into(),
        Input::Notified(channel, seq) => named("notified", fields!(channel, seq)),
        Input::Bytes(..) | Input::Persisted(..) | Input::Loaded(..) | Input::Stored(..) => {
            panic!("an input that transcripts do not state: {input:?}")
        }
    }
}

/// The inputs that follow from nothing that the machine itself has put out, read back.
pub(super) fn read_input(of: &Value) -> Option<Input<'static>> {
    if of == "tick" {
        return Some(Input::Tick);
    }
    let (kind, of) = of.as_object()?.iter().next()?;
    let number = |name: &str| of[name].as_u64().unwrap();
    let (conn, link) = (|| ConnId(number("conn")), || LinkId(number("link")));
    Some(match kind.as_str() {
        "connected" => Input::Connected(conn(), read_transport(&of["transport"])),
        "disconnected" => Input::Disconnected(conn(), read_gone(&of["why"])),
        "accepted" => Input::Accepted(conn(), link()),
        "closed" => Input::Closed(link(), read_gone(&of["why"])),
        "writable" => Input::Writable(link(), usize::try_from(number("credit")).unwrap()),
        "persisted" => Input::Persisted(BatchId(number("batch")), Ok(())),
        _ => return None,
    })
}

/// Bytes to send, in full.
pub(super) fn sent(output: &Output, bytes: &[u8]) -> Value {
    let mut stated = self::output(output);
    stated["send"]["bytes"] = hex(bytes);
    stated
}

/// An output but for bytes to send.
pub(super) fn output(output: &Output) -> Value {
    match output {
        Output::Connect(conn, target) => {
            let target = &target.0;
            named("connect", fields!(conn, target))
        }
        Output::Open(conn, link, role) => named(
            "open",
            object([("conn", conn.json()), ("link", link.json()), ("role", variant(role).into())]),
        ),
        Output::Send { link, fin, .. } => named("send", fields!(link, fin)),
        Output::Read(link) => named("read", fields!(link)),
        Output::CloseLink(link, code) => named("closeLink", fields!(link, code)),
        Output::CloseConn(conn, code) => named("closeConn", fields!(conn, code)),
        Output::Persist(batch) => named("persist", batch.json()),
        Output::Load(load, page) => named("load", fields!(load, page)),
        Output::Store(id, op) => named("store", object([("op", id.json()), ("do", op.json())])),
        Output::Audit(event) => named("audit", event.json()),
        Output::Compute(job, work) => {
            let work = format!("{work:?}");
            // Client(Register(…)): whose it is shows already.
            let of = work.split('(').nth(1).unwrap_or_default();
            let of = camel(of.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default());
            let work = &of;
            named("compute", fields!(job, work))
        }
        Output::Event(event) => named("event", event.json()),
        Output::Idle { wake_at, reason } => {
            named("idle", object([("wakeAt", wake_at.json()), ("why", variant(reason).into())]))
        }
    }
}

impl Json for Batch {
    fn json(&self) -> Value {
        let batch = &self.id;
        let ops = &self.ops;
        fields!(batch, ops)
    }
}

impl Json for Page {
    fn json(&self) -> Value {
        // More than any number that programs in other languages can count to is all.
        let most = u32::try_from(self.most).ok();
        let after = self.after.as_deref().map(hex).unwrap_or_default();
        object([
            ("prefix", hex(&self.prefix)),
            ("after", after),
            ("most", most.map(Value::from).unwrap_or_default()),
        ])
    }
}

impl Json for AuditEvent {
    fn json(&self) -> Value {
        let Self { at, kind, account, device, channel, error } = self;
        let kind = &variant(kind);
        fields!(at, kind, account, device, channel, error)
    }
}

impl Json for Transport {
    fn json(&self) -> Value {
        let Binding { kind, value } = &self.binding;
        let kind = &u16::from(kind.number());
        let binding = fields!(kind, value);
        object([
            ("binding", binding),
            ("peer", hex(&self.peer)),
            ("links", variant(&self.links).into()),
        ])
    }
}

fn read_transport(of: &Value) -> Transport {
    let value = unhex(&of["binding"]["value"]).try_into().unwrap();
    let all = [BindingKind::TlsExporter, BindingKind::NoiseHash, BindingKind::InsecurePlain];
    let mut kinds = all.into_iter();
    let kind = kinds.find(|kind| of["binding"]["kind"] == kind.number()).unwrap();
    let links = if of["links"] == "one" { Links::One } else { Links::Many };
    Transport { binding: Binding { kind, value }, peer: unhex(&of["peer"]), links }
}

impl Json for Gone {
    fn json(&self) -> Value {
        match self {
            Self::Closed(code) => named("closed", code.json()),
            Self::Finished => "finished".into(),
            Self::Lost(why) => named("lost", why.json()),
            Self::Untrusted(why) => named("untrusted", why.json()),
        }
    }
}

fn read_gone(of: &Value) -> Gone {
    let text = |name: &str| of[name].as_str().map(str::to_owned);
    if let Some(code) = of["closed"].as_u64() {
        Gone::Closed(CloseCode(u32::try_from(code).unwrap()))
    } else if let Some(why) = text("lost") {
        Gone::Lost(why)
    } else if let Some(why) = text("untrusted") {
        Gone::Untrusted(why)
    } else {
        Gone::Finished
    }
}
