//! What is in a record, as JSON: fields by their names, bytes as hex.

use postcard::{Error, Result};
use serde::ser::{self, Serialize, Serializer};
use serde_json::{Map, Value};

use super::hex;

/// The fields of a record. A list of nothing is an empty list, whatever it might hold; keys and values of a map stand
/// as pairs.
pub(crate) fn values<T: Serialize + ?Sized>(of: &T) -> Value {
    of.serialize(Form).unwrap().value()
}

/// A value; or a byte, which may be one of many.
enum Formed {
    Byte(u8),
    Value(Value),
}

impl Formed {
    fn value(self) -> Value {
        match self {
            Self::Byte(byte) => byte.into(),
            Self::Value(value) => value,
        }
    }
}

struct Form;

/// A value of several parts, of an enum's variant if it has a name.
struct Parts {
    variant: Option<&'static str>,
    items: Vec<Formed>,
    fields: Map<String, Value>,
}

impl Parts {
    fn new(variant: Option<&'static str>) -> Result<Self> {
        Ok(Self { variant, items: Vec::new(), fields: Map::new() })
    }

    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<()> {
        self.items.push(item.serialize(Form)?);
        Ok(())
    }

    fn formed(self) -> Result<Formed> {
        let value = if !self.fields.is_empty() {
            self.fields.into()
        } else {
            let bytes = self.items.iter().map(|item| match item {
                Formed::Byte(byte) => Some(*byte),
                Formed::Value(_) => None,
            });
            match bytes.collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => hex(&bytes),
                None => self.items.into_iter().map(Formed::value).collect(),
            }
        };
        Ok(Formed::Value(named(self.variant, value)))
    }
}

fn named(variant: Option<&'static str>, value: Value) -> Value {
    match variant {
        Some(variant) => Map::from_iter([(variant.to_owned(), value)]).into(),
        None => value,
    }
}

macro_rules! plain {
    ($($method:ident($value:ty);)*) => {$(
        fn $method(self, value: $value) -> Result<Formed> {
            Ok(Formed::Value(value.into()))
        }
    )*};
}

impl Serializer for Form {
    type Ok = Formed;
    type Error = Error;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Parts;
    type SerializeMap = Parts;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Parts;

    fn is_human_readable(&self) -> bool {
        false
    }

    plain! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_str(&str);
    }

    fn serialize_u8(self, byte: u8) -> Result<Formed> {
        Ok(Formed::Byte(byte))
    }

    fn serialize_char(self, letter: char) -> Result<Formed> {
        Ok(Formed::Value(letter.to_string().into()))
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Formed> {
        Ok(Formed::Value(hex(bytes)))
    }

    fn serialize_none(self) -> Result<Formed> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Formed> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Formed> {
        Ok(Formed::Value(Value::Null))
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Formed> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<Formed> {
        self.serialize_str(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Formed> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Result<Formed> {
        Ok(Formed::Value(named(Some(name), value.serialize(self)?.value())))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts> {
        Parts::new(None)
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts> {
        Parts::new(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts> {
        Parts::new(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Parts> {
        Parts::new(Some(name))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts> {
        Parts::new(None)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts> {
        Parts::new(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Parts> {
        Parts::new(Some(name))
    }
}

macro_rules! lists {
    ($($of:ident $method:ident;)*) => {$(
        impl ser::$of for Parts {
            type Ok = Formed;
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<()> {
                self.push(item)
            }

            fn end(self) -> Result<Formed> {
                self.formed()
            }
        }
    )*};
}

macro_rules! structs {
    ($($of:ident)*) => {$(
        impl ser::$of for Parts {
            type Ok = Formed;
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<()> {
                self.fields.insert(name.to_owned(), value.serialize(Form)?.value());
                Ok(())
            }

            fn end(self) -> Result<Formed> {
                self.formed()
            }
        }
    )*};
}

lists! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

structs! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Parts {
    type Ok = Formed;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.push(&(key,))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let value = value.serialize(Form)?.value();
        let Some(Formed::Value(Value::Array(pair))) = self.items.last_mut() else {
            return Err(Error::SerdeSerCustom);
        };
        pair.push(value);
        Ok(())
    }

    fn end(self) -> Result<Formed> {
        self.formed()
    }
}
