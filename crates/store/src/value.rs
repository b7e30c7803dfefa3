//! Statement parameters and column values, the same for both databases.

use std::time::Duration;

use bytes::BytesMut;
use kith_kernel::{StoredJson, Timestamp, UserId, uuid::Uuid};
use rusqlite::types::{ToSqlOutput, ValueRef};
use tokio_postgres::types::{IsNull, Type, to_sql_checked};

use crate::Error;

/// Value of a parameter, borrowed from the caller. Use [`crate::params!`] to create a list of them.
#[derive(Clone, Copy, Debug)]
pub enum Param<'a> {
    /// NULL of any type.
    Null,
    /// TEXT.
    Text(&'a str),
    /// TEXT. The value is an id.
    Id(Uuid),
    /// BIGINT.
    Int(i64),
    /// BOOLEAN.
    Bool(bool),
    /// DOUBLE PRECISION.
    Float(f64),
    /// BYTEA.
    Bytes(&'a [u8]),
    /// Array of values, for [`crate::Tx::bulk`].
    #[doc(hidden)]
    Array(Values<'a>),
}

/// Value of a parameter for a statement that is sent later.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OwnedParam {
    Null,
    Text(String),
    Id(Uuid),
    Int(i64),
    Bool(bool),
    Float(f64),
    Bytes(Vec<u8>),
}

impl OwnedParam {
    /// Copies parameters. Returns `None` if one of them is an array.
    pub fn copy_all(params: &[Param<'_>]) -> Option<Vec<Self>> {
        let copy = |param: &Param<'_>| match *param {
            Param::Null => Some(Self::Null),
            Param::Text(text) => Some(Self::Text(text.to_owned())),
            Param::Id(id) => Some(Self::Id(id)),
            Param::Int(n) => Some(Self::Int(n)),
            Param::Bool(b) => Some(Self::Bool(b)),
            Param::Float(x) => Some(Self::Float(x)),
            Param::Bytes(bytes) => Some(Self::Bytes(bytes.to_owned())),
            Param::Array(_) => None,
        };
        params.iter().map(copy).collect()
    }

    pub fn as_param(&self) -> Param<'_> {
        match self {
            Self::Null => Param::Null,
            Self::Text(text) => Param::Text(text),
            Self::Id(id) => Param::Id(*id),
            Self::Int(n) => Param::Int(*n),
            Self::Bool(b) => Param::Bool(*b),
            Self::Float(x) => Param::Float(*x),
            Self::Bytes(bytes) => Param::Bytes(bytes),
        }
    }
}

/// Values of one placeholder for all rows.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// BIGINT.
    Ints(&'a [i64]),
    /// BIGINT or NULL.
    OptionalInts(&'a [Option<i64>]),
    /// TEXT.
    Texts(&'a [&'a str]),
    /// TEXT or NULL.
    OptionalTexts(&'a [Option<&'a str>]),
}

impl<'a> Values<'a> {
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Ints(all) => all.len(),
            Self::OptionalInts(all) => all.len(),
            Self::Texts(all) => all.len(),
            Self::OptionalTexts(all) => all.len(),
        }
    }

    pub(crate) fn at(self, row: usize) -> Param<'a> {
        match self {
            Self::Ints(all) => Param::Int(all[row]),
            Self::OptionalInts(all) => all[row].map_or(Param::Null, Param::Int),
            Self::Texts(all) => Param::Text(all[row]),
            Self::OptionalTexts(all) => all[row].map_or(Param::Null, Param::Text),
        }
    }
}

impl Param<'_> {
    const fn type_name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Text(_) => "a text",
            Self::Id(_) => "an id",
            Self::Int(_) => "an integer",
            Self::Bool(_) => "a boolean",
            Self::Float(_) => "a float",
            Self::Bytes(_) => "bytes",
            Self::Array(_) => "a column",
        }
    }

    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::Text(text) if has_nul(text) => Err(Error::NulInText),
            Self::Array(Values::Texts(all)) if all.iter().any(|text| has_nul(text)) => Err(Error::NulInText),
            Self::Array(Values::OptionalTexts(all)) if all.iter().flatten().any(|text| has_nul(text)) => {
                Err(Error::NulInText)
            }
            _ => Ok(()),
        }
    }
}

fn has_nul(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

/// Checks all parameters, before one of them is sent to a database.
pub(crate) fn check_all(params: &[Param<'_>]) -> Result<(), Error> {
    params.iter().try_for_each(|param| param.check())
}

/// Type that can be used as a parameter.
pub trait AsParam {
    /// Returns the value as a parameter.
    fn as_param(&self) -> Param<'_>;
}

/// Creates the list of a statement's parameters, in order: `params![id, name, ctx.now]`.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::AsParam::as_param(&$value)),*] };
}

macro_rules! as_param {
    ($($type:ty: |$self:ident| $param:expr;)+) => {$(
        impl AsParam for $type {
            fn as_param(&self) -> Param<'_> { let $self = self; $param }
        }
    )+};
}

as_param! {
    str: |s| Param::Text(s);
    String: |s| Param::Text(s);
    i64: |n| Param::Int(*n);
    bool: |b| Param::Bool(*b);
    f64: |x| Param::Float(*x);
    [u8]: |b| Param::Bytes(b);
    Vec<u8>: |b| Param::Bytes(b);
    Uuid: |id| Param::Id(*id);
    UserId: |id| Param::Id(id.0);
    Timestamp: |at| Param::Int(at.as_millis());
}

impl<const N: usize> AsParam for [u8; N] {
    fn as_param(&self) -> Param<'_> {
        Param::Bytes(self)
    }
}

impl<T: AsParam + ?Sized> AsParam for &T {
    fn as_param(&self) -> Param<'_> {
        (**self).as_param()
    }
}

impl<T: AsParam> AsParam for Option<T> {
    fn as_param(&self) -> Param<'_> {
        self.as_ref().map_or(Param::Null, AsParam::as_param)
    }
}

/// Allows id types declared with `kith_kernel::id_type!` to be used as parameters and columns.
#[macro_export]
macro_rules! id_columns {
    ($($type:ident),+ $(,)?) => {$(
        impl $crate::AsParam for $type {
            fn as_param(&self) -> $crate::Param<'_> { $crate::Param::Id(self.0) }
        }
        impl $crate::Column for $type {
            fn from_row(row: &$crate::Row<'_>, at: usize) -> Result<Self, $crate::Error> {
                Ok(Self(row.get(at)?))
            }
        }
    )+};
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match *self {
            Self::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Id(id) => ToSqlOutput::Owned(rusqlite::types::Value::Text(id.to_string())),
            Self::Int(n) => ToSqlOutput::Borrowed(ValueRef::Integer(n)),
            Self::Bool(b) => ToSqlOutput::Borrowed(ValueRef::Integer(i64::from(b))),
            Self::Float(x) => ToSqlOutput::Borrowed(ValueRef::Real(x)),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Self::Array(_) => {
                return Err(rusqlite::Error::ToSqlConversionFailure("a column is not a bound value".into()));
            }
        })
    }
}

impl tokio_postgres::types::ToSql for Param<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match (*self, ty) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Text(text), &(Type::TEXT | Type::VARCHAR)) => text.to_sql(ty, out),
            (Self::Id(id), &(Type::TEXT | Type::VARCHAR)) => {
                (&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer())).to_sql(ty, out)
            }
            (Self::Int(n), &Type::INT4) => i32::try_from(n)?.to_sql(ty, out),
            (Self::Int(n), &Type::INT8) => n.to_sql(ty, out),
            (Self::Bool(b), &Type::BOOL) => b.to_sql(ty, out),
            (Self::Float(x), &Type::FLOAT8) => x.to_sql(ty, out),
            (Self::Bytes(bytes), &Type::BYTEA) => bytes.to_sql(ty, out),
            (Self::Array(Values::Ints(all)), &Type::INT8_ARRAY) => all.to_sql(ty, out),
            (Self::Array(Values::OptionalInts(all)), &Type::INT8_ARRAY) => all.to_sql(ty, out),
            (Self::Array(Values::Texts(all)), &Type::TEXT_ARRAY) => all.to_sql(ty, out),
            (Self::Array(Values::OptionalTexts(all)), &Type::TEXT_ARRAY) => all.to_sql(ty, out),
            // Without this check, the driver would write the bytes of one type although the server expects
            // another type.
            (param, ty) => Err(format!("{} cannot be bound as {ty}", param.type_name()).into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(
            *ty,
            Type::TEXT
                | Type::VARCHAR
                | Type::INT8
                | Type::INT4
                | Type::BOOL
                | Type::FLOAT8
                | Type::BYTEA
                | Type::INT8_ARRAY
                | Type::TEXT_ARRAY
        )
    }

    to_sql_checked!();
}

/// Row of a result. It is valid only while the result of the statement is being read.
pub enum Row<'r> {
    #[doc(hidden)]
    Sqlite(&'r rusqlite::Row<'r>),
    #[doc(hidden)]
    Postgres(&'r tokio_postgres::Row),
}

impl Row<'_> {
    /// Returns the value of the column at index `at`, counted from 0.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the column does not contain a value of type `T`.
    pub fn get<T: Column>(&self, at: usize) -> Result<T, Error> {
        T::from_row(self, at)
    }
}

/// Type that can be read from a column.
pub trait Column: Sized {
    /// Reads the column at index `at`.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the column does not contain such a value.
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error>;
}

macro_rules! column {
    ($($type:ty),+) => {$(
        impl Column for $type {
            fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
                match row {
                    Row::Sqlite(row) => row.get(at).map_err(Error::fault),
                    Row::Postgres(row) => row.try_get(at).map_err(Error::fault),
                }
            }
        }
        impl Column for Option<$type> {
            fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
                match row {
                    Row::Sqlite(row) => row.get(at).map_err(Error::fault),
                    Row::Postgres(row) => row.try_get(at).map_err(Error::fault),
                }
            }
        }
    )+};
}

column!(String, i64, bool, f64, Vec<u8>);

impl Column for StoredJson {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Self::from_text(row.get(at)?).map_err(Error::fault)
    }
}

impl Column for Option<StoredJson> {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        row.get::<Option<String>>(at)?
            .map(|text| StoredJson::from_text(text).map_err(Error::fault))
            .transpose()
    }
}

impl Column for Uuid {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        let parsed = match row {
            Row::Sqlite(row) => {
                row.get_ref(at).map_err(Error::fault)?.as_str().map_err(Error::fault)?.parse()
            }
            Row::Postgres(row) => row.try_get::<_, &str>(at).map_err(Error::fault)?.parse(),
        };
        parsed.map_err(Error::fault)
    }
}

impl Column for Option<Uuid> {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        row.get::<Option<String>>(at)?.map(|text| text.parse().map_err(Error::fault)).transpose()
    }
}

impl Column for UserId {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(Self(row.get(at)?))
    }
}

impl Column for Option<UserId> {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(row.get::<Option<Uuid>>(at)?.map(UserId))
    }
}

impl Column for Timestamp {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(Self::from_millis(row.get(at)?))
    }
}

/// Reads milliseconds. A negative number is read as zero.
impl Column for Duration {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(Self::from_millis(u64::try_from(row.get::<i64>(at)?).unwrap_or(0)))
    }
}

impl Column for Option<Timestamp> {
    fn from_row(row: &Row<'_>, at: usize) -> Result<Self, Error> {
        Ok(row.get::<Option<i64>>(at)?.map(Timestamp::from_millis))
    }
}
