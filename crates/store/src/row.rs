//! Rows read as values of a type whose columns are listed once.

use crate::value::Column;
use crate::{Error, Row};

/// Columns of a row that are read one after the other.
pub struct Columns<'r, 'c> {
    row: &'r Row<'c>,
    at: usize,
}

impl<'r, 'c> Columns<'r, 'c> {
    /// Columns of `row`, from the first one on.
    pub fn of(row: &'r Row<'c>) -> Self {
        Self { row, at: 0 }
    }

    /// Reads as many columns as a `T` has.
    ///
    /// # Errors
    /// [`Error::Fault`] if they do not hold such a value.
    pub fn read<T: FromRow>(&mut self) -> Result<T, Error> {
        T::from_columns(self)
    }
}

/// A type that is read from one or more columns. [`row_columns!`](crate::row_columns) implements it for a struct.
pub trait FromRow: Sized {
    /// Reads the next columns.
    ///
    /// # Errors
    /// [`Error::Fault`] if they do not hold such a value.
    fn from_columns(columns: &mut Columns<'_, '_>) -> Result<Self, Error>;

    /// Reads a row whose first columns are those of the type.
    ///
    /// # Errors
    /// [`Error::Fault`] if they do not hold such a value.
    fn read_row(row: &Row<'_>) -> Result<Self, Error> {
        Self::from_columns(&mut Columns::of(row))
    }
}

impl<T: Column> FromRow for T {
    fn from_columns(columns: &mut Columns<'_, '_>) -> Result<Self, Error> {
        columns.at += 1;
        columns.row.get(columns.at - 1)
    }
}

/// Lists the columns of a row type once: implements [`FromRow`], and declares a macro that expands to the columns, for `concat!`.
/// A field that is not a column is computed from those that are, behind a semicolon. A field whose type is to be known there has it
/// written.
///
/// ```
/// use kith_store::{Error, FromRow, Query, params, row_columns};
///
/// struct Dog {
///     id: i64,
///     name: Option<String>,
///     is_named: bool,
/// }
///
/// row_columns! {
///     dog_columns => Dog { id = "d.id", name: Option<String> = "d.name"; is_named = name.is_some() }
/// }
///
/// fn find_dog(q: &Query<'_>, id: i64) -> Result<Option<Dog>, Error> {
///     q.one(concat!("SELECT ", dog_columns!(), " FROM dogs d WHERE d.id = $1"), params![id], Dog::read_row)
/// }
///
/// assert_eq!(dog_columns!(), "d.id, d.name");
/// ```
#[macro_export]
macro_rules! row_columns {
    ($list:ident => $type:ident {
        $first:ident $(: $first_type:ty)? = $first_column:literal
        $(, $field:ident $(: $field_type:ty)? = $column:literal)* $(,)?
        $(; $computed:ident = $value:expr)* $(;)?
    }) => {
        macro_rules! $list {
            () => { concat!($first_column $(, ", ", $column)*) };
        }

        impl $crate::FromRow for $type {
            fn from_columns(columns: &mut $crate::Columns<'_, '_>) -> Result<Self, $crate::Error> {
                let $first $(: $first_type)? = columns.read()?;
                $(let $field $(: $field_type)? = columns.read()?;)*
                Ok(Self { $($computed: $value,)* $first $(, $field)* })
            }
        }
    };
}
