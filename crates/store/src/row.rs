//! Reading of rows into types whose columns are declared in one place.

use crate::value::Column;
use crate::{Error, Row};

/// Cursor that reads the columns of a row from left to right.
pub struct Columns<'r, 'c> {
    row: &'r Row<'c>,
    at: usize,
}

impl<'r, 'c> Columns<'r, 'c> {
    /// Creates a cursor at the first column of `row`.
    pub fn of(row: &'r Row<'c>) -> Self {
        Self { row, at: 0 }
    }

    /// Reads a `T` from the next columns.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the columns do not contain such a value.
    pub fn read<T: FromRow>(&mut self) -> Result<T, Error> {
        T::from_columns(self)
    }
}

/// Type that can be read from one or more columns. [`row_columns!`](crate::row_columns) implements it for a
/// struct.
pub trait FromRow: Sized {
    /// Reads the value from the next columns.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the columns do not contain such a value.
    fn from_columns(columns: &mut Columns<'_, '_>) -> Result<Self, Error>;

    /// Reads the value from the first columns of `row`.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the columns do not contain such a value.
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

/// Declares the columns of a row type in one place. Implements [`FromRow`], and defines a macro that expands
/// to the list of columns, for `concat!`.
///
/// A field is read from one column, or from several columns if its type needs several (`owner =
/// owner_columns!()`). Computed fields follow after a semicolon. Columns that are needed only for the
/// computation are listed in parentheses. A field can have a type annotation, which a computation may need.
///
/// ```
/// use kith_store::{Error, FromRow, Query, params, row_columns};
///
/// struct Dog {
///     id: i64,
///     name: Option<String>,
///     is_named: bool,
///     tricks: Vec<String>,
/// }
///
/// row_columns! {
///     dog_columns => Dog (tricks: String = "d.tricks") {
///         id = "d.id",
///         name: Option<String> = "d.name";
///         is_named = name.is_some();
///         tricks = tricks.split(' ').map(str::to_owned).collect()
///     }
/// }
///
/// fn find_dog(q: &Query<'_>, id: i64) -> Result<Option<Dog>, Error> {
///     q.one(concat!("SELECT ", dog_columns!(), " FROM dogs d WHERE d.id = $1"), params![id], Dog::read_row)
/// }
///
/// assert_eq!(dog_columns!(), "d.tricks, d.id, d.name");
/// ```
#[macro_export]
macro_rules! row_columns {
    ($list:ident => $type:ident $(($($only:ident : $only_type:ty = $only_column:expr),+ $(,)?))? {
        $first:ident $(: $first_type:ty)? = $first_column:expr
        $(, $field:ident $(: $field_type:ty)? = $column:expr)* $(,)?
        $(; $computed:ident = $value:expr)* $(;)?
    }) => {
        macro_rules! $list {
            () => { concat!($($($only_column, ", ",)+)? $first_column $(, ", ", $column)*) };
        }
        #[allow(unused_imports, reason = "most lists are used in the file of their type alone")]
        pub(crate) use $list;

        impl $crate::FromRow for $type {
            fn from_columns(columns: &mut $crate::Columns<'_, '_>) -> Result<Self, $crate::Error> {
                $($(let $only: $only_type = columns.read()?;)+)?
                let $first $(: $first_type)? = columns.read()?;
                $(let $field $(: $field_type)? = columns.read()?;)*
                Ok(Self { $($computed: $value,)* $first $(, $field)* })
            }
        }
    };
}
