//! Tells a byte from everything else that serde can be handed.

use postcard::{Error, Result};
use serde::ser::{Impossible, Serialize, Serializer};

/// The byte that `value` is; `None` if it is anything else, which is not looked into.
#[inline]
pub(super) fn byte_in<T: Serialize + ?Sized>(value: &T) -> Option<u8> {
    value.serialize(Byte).ok()
}

struct Byte;

type No = Impossible<u8, Error>;

const NO: Error = Error::WontImplement;

macro_rules! no {
    ($($method:ident($($value:ty),*) -> $of:ty;)*) => {$(
        #[inline]
        fn $method(self, $(_: $value),*) -> Result<$of> {
            Err(NO)
        }
    )*};
}

impl Serializer for Byte {
    type Ok = u8;
    type Error = Error;
    type SerializeSeq = No;
    type SerializeTuple = No;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = No;
    type SerializeMap = No;
    type SerializeStruct = No;
    type SerializeStructVariant = No;

    #[inline]
    fn serialize_u8(self, value: u8) -> Result<u8> {
        Ok(value)
    }

    no! {
        serialize_bool(bool) -> u8;
        serialize_i8(i8) -> u8;
        serialize_i16(i16) -> u8;
        serialize_i32(i32) -> u8;
        serialize_i64(i64) -> u8;
        serialize_u16(u16) -> u8;
        serialize_u32(u32) -> u8;
        serialize_u64(u64) -> u8;
        serialize_f32(f32) -> u8;
        serialize_f64(f64) -> u8;
        serialize_char(char) -> u8;
        serialize_str(&str) -> u8;
        serialize_bytes(&[u8]) -> u8;
        serialize_none() -> u8;
        serialize_unit() -> u8;
        serialize_unit_struct(&'static str) -> u8;
        serialize_unit_variant(&'static str, u32, &'static str) -> u8;
        serialize_seq(Option<usize>) -> No;
        serialize_tuple(usize) -> No;
        serialize_tuple_struct(&'static str, usize) -> No;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> No;
        serialize_map(Option<usize>) -> No;
        serialize_struct(&'static str, usize) -> No;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> No;
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<u8> {
        Err(NO)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<u8> {
        Err(NO)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<u8> {
        Err(NO)
    }

    #[inline]
    fn collect_str<T: core::fmt::Display + ?Sized>(self, _: &T) -> Result<u8> {
        Err(NO)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}
