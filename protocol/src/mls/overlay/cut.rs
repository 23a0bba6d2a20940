//! Encodes a value in postcard and cuts it into [`Blocks`] on the way.
//!
//! serde names the structs and fields that it passes: OpenMLS's vectors of one place per leaf are cut, and its message
//! secrets, one set per epoch, are a scope each, so that they keep their blocks when their epoch is over and they
//! move from one place of the record to another.

use std::sync::Arc;

use postcard::ser_flavors::Flavor as _;
use postcard::{Error, Result};
use serde::ser::{self, Serialize, Serializer as _};
use zeroize::Zeroizing;

use super::blocks::{Blocks, Cut, List, Part};
use super::byte::byte_in;
use super::members::Members;
use super::out::Out;

/// Cuts `value`. Scopes that `old` has too keep their numbers; others are given the next.
pub(super) fn cut<T: Serialize>(value: &T, old: &Blocks, next: &mut u32) -> Result<Blocks> {
    let mut cutter = Cutter {
        old,
        next,
        out: postcard::Serializer { output: Out::default() },
        parts: Vec::new(),
        scopes: Vec::new(),
        want: None,
        cutting: None,
    };
    let outer = old.parts.first().map(|part| part.scope);
    let outer = outer.unwrap_or_else(|| cutter.fresh());
    cutter.scopes.push(Scope { number: Some(outer), slots: 0 });
    value.serialize(&mut cutter)?;
    cutter.end_part(List::None);
    Ok(Blocks { parts: cutter.parts, saved: None })
}

/// How a vector is cut.
#[derive(Clone, Copy)]
enum Want {
    /// Into blocks of so many places. Secrets are small, and a message changes few of them that lie apart; nodes of the
    /// tree are larger than what is to be said of them.
    Blocks(u32),
    Members,
}

fn want(name: &str, field: &str) -> Option<Want> {
    match (name, field) {
        ("ABinaryTree", "leaf_nodes" | "parent_nodes") => Some(Want::Blocks(1)),
        (
            "SecretTree",
            "leaf_nodes"
            | "parent_nodes"
            | "handshake_sender_ratchets"
            | "application_sender_ratchets",
        ) => Some(Want::Blocks(4)),
        ("EpochTree", "leaves") => Some(Want::Members),
        _ => None,
    }
}

const SCOPE: &str = "MessageSecrets";

struct Cutter<'a> {
    old: &'a Blocks,
    next: &'a mut u32,
    out: postcard::Serializer<Out>,
    parts: Vec<Part>,
    /// The innermost last.
    scopes: Vec<Scope>,
    /// How the next vector is to be cut.
    want: Option<Want>,
    /// The vector that is being cut.
    cutting: Option<Listing>,
}

struct Scope {
    /// Given at the end of its first part: what stands there tells which it is.
    number: Option<u32>,
    slots: u32,
}

impl Cutter<'_> {
    fn fresh(&mut self) -> u32 {
        let number = *self.next;
        *self.next += 1;
        number
    }

    fn take(&mut self) -> Zeroizing<Vec<u8>> {
        core::mem::take(&mut self.out.output.0)
    }

    /// Ends the present part: what was written since the last one ended, then `list`.
    fn end_part(&mut self, list: List) {
        let literal = self.take();
        self.push_part(literal, list);
    }

    fn push_part(&mut self, literal: Zeroizing<Vec<u8>>, list: List) {
        let (number, slots) = match self.scopes.last() {
            Some(Scope { number: Some(number), slots }) => (*number, *slots),
            _ => (self.number(&literal), 0),
        };
        if let Some(scope) = self.scopes.last_mut() {
            *scope = Scope { number: Some(number), slots: slots + 1 };
        }
        self.parts.push(Part { scope: number, slot: slots + 1, literal, list });
    }

    /// The number of the scope that begins so: secrets of an epoch, which are never the same twice.
    fn number(&mut self, literal: &[u8]) -> u32 {
        let known = self.old.parts.iter().find(|part| {
            part.slot == 1
                && *part.literal == literal
                && self.parts.iter().all(|taken| taken.scope != part.scope)
        });
        known.map(|part| part.scope).unwrap_or_else(|| self.fresh())
    }

    fn enter(&mut self) {
        self.end_part(List::None);
        self.scopes.push(Scope { number: None, slots: 0 });
    }

    fn leave(&mut self) {
        self.end_part(List::None);
        self.scopes.pop();
    }

    /// Ends the vector that is being cut.
    fn end_list(&mut self) -> Result<()> {
        let Some(Listing { want, literal, mut cut, left }) = self.cutting.take() else {
            return Ok(());
        };
        cut.bytes = self.take();
        if left != cut.per {
            cut.ends.push(cut.bytes.len());
        }
        let list = match want {
            Want::Blocks(_) => List::Plain(cut),
            Want::Members => {
                let members = Members::new(core::mem::take(&mut *cut.bytes), &cut.ends);
                List::Members(Arc::new(members.ok_or(Error::SerdeSerCustom)?))
            }
        };
        self.push_part(literal, list);
        Ok(())
    }

    /// The members that were stored behind the same secrets before: they are the same as long as the secrets are.
    fn known_members(&self) -> Option<Arc<Members>> {
        let secrets = self.parts.last()?.scope;
        let pairs = self.old.parts.iter().zip(self.old.parts.iter().skip(1));
        let mut lists = pairs.filter(|(before, _)| before.scope == secrets);
        lists.find_map(|(_, part)| match &part.list {
            List::Members(list) => Some(list.clone()),
            _ => None,
        })
    }
}

/// What has nothing inside is postcard's to write.
macro_rules! plain {
    ($($method:ident($value:ty);)*) => {$(
        #[inline]
        fn $method(self, value: $value) -> Result<()> {
            self.out.$method(value)
        }
    )*};
}

impl<'c, 'a> ser::Serializer for &'c mut Cutter<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Seq<'c, 'a>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Struct<'c, 'a>;
    type SerializeStructVariant = Self;

    fn is_human_readable(&self) -> bool {
        false
    }

    plain! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_unit_struct(&'static str);
    }

    fn serialize_none(self) -> Result<()> {
        self.out.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        // postcard writes a one, then the value.
        self.out.serialize_u8(1)?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<()> {
        self.out.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<()> {
        self.out.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<()> {
        self.out.serialize_u32(index)?;
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Seq<'c, 'a>> {
        self.out.serialize_seq(len)?;
        let len = len.unwrap_or_default();
        let Some(want) = self.want.take().filter(|_| self.cutting.is_none()) else {
            return Ok(Seq { cutter: self, cuts: false, len, byte: None });
        };
        let (literal, per) = (self.take(), if let Want::Blocks(per) = want { per } else { 1 });
        let cut = Cut { per, ..Cut::default() };
        self.cutting = Some(Listing { want, literal, cut, left: per });
        Ok(Seq { cutter: self, cuts: true, len, byte: None })
    }

    fn serialize_tuple(self, _len: usize) -> Result<Self> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Self> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self> {
        self.out.serialize_u32(index)?;
        Ok(self)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self> {
        self.out.serialize_map(len)?;
        Ok(self)
    }

    fn serialize_struct(self, name: &'static str, _len: usize) -> Result<Struct<'c, 'a>> {
        if name == SCOPE && self.cutting.is_none() {
            self.enter();
        }
        Ok(Struct { cutter: self, name })
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self> {
        self.out.serialize_u32(index)?;
        Ok(self)
    }
}

struct Seq<'c, 'a> {
    cutter: &'c mut Cutter<'a>,
    /// Whether it is the one that is being cut.
    cuts: bool,
    /// How many elements are said to come.
    len: usize,
    /// Where the next byte goes, in a vector of bytes: most of what OpenMLS stores is such, and serde hands it over
    /// byte by byte, so there is room for all of them at once.
    byte: Option<usize>,
}

impl Seq<'_, '_> {
    #[inline]
    fn write_byte(&mut self, byte: u8) -> Result<()> {
        let at = match self.byte {
            Some(at) => at,
            None => self.cutter.out.output.make_room(self.len),
        };
        self.byte = Some(at + 1);
        match self.cutter.out.output.0.get_mut(at) {
            Some(place) => *place = byte,
            None => self.cutter.out.output.try_push(byte)?,
        }
        Ok(())
    }

    /// Ends the bytes, which may be fewer than was said.
    #[inline]
    fn end_bytes(&mut self) {
        if let Some(end) = self.byte.take() {
            self.cutter.out.output.0.truncate(end);
        }
    }
}

struct Listing {
    want: Want,
    /// What was before it.
    literal: Zeroizing<Vec<u8>>,
    cut: Cut,
    /// How many places the present block still has.
    left: u32,
}

impl ser::SerializeSeq for Seq<'_, '_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        if !self.cuts
            && let Some(byte) = byte_in(value)
        {
            return self.write_byte(byte);
        }
        self.end_bytes();
        value.serialize(&mut *self.cutter)?;
        if self.cuts
            && let Some(Listing { cut, left, .. }) = &mut self.cutter.cutting
        {
            cut.len += 1;
            *left -= 1;
            if *left == 0 {
                *left = cut.per;
                cut.ends.push(self.cutter.out.output.0.len());
            }
        }
        Ok(())
    }

    #[inline]
    fn end(mut self) -> Result<()> {
        self.end_bytes();
        if self.cuts { self.cutter.end_list() } else { Ok(()) }
    }
}

struct Struct<'c, 'a> {
    cutter: &'c mut Cutter<'a>,
    name: &'static str,
}

impl ser::SerializeStruct for Struct<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        field: &'static str,
        value: &T,
    ) -> Result<()> {
        self.cutter.want = want(self.name, field);
        if let Some(Want::Members) = self.cutter.want
            && let Some(list) = self.cutter.known_members()
        {
            self.cutter.want = None;
            self.cutter.out.serialize_seq(usize::try_from(list.len()).ok())?;
            self.cutter.end_part(List::Members(list));
            return Ok(());
        }
        value.serialize(&mut *self.cutter)?;
        self.cutter.want = None;
        Ok(())
    }

    fn end(self) -> Result<()> {
        if self.name == SCOPE && self.cutter.cutting.is_none() {
            self.cutter.leave();
        }
        Ok(())
    }
}

/// What serde makes of several values without a vector around them: one behind the other.
macro_rules! in_a_row {
    ($($of:ident $method:ident($($name:ty)?);)*) => {$(
        impl ser::$of for &mut Cutter<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $(_name: $name,)?
                value: &T,
            ) -> Result<()> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )*};
}

in_a_row! {
    SerializeTuple serialize_element();
    SerializeTupleStruct serialize_field();
    SerializeTupleVariant serialize_field();
    SerializeStructVariant serialize_field(&'static str);
}

impl ser::SerializeMap for &mut Cutter<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
