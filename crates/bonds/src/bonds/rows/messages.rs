//! SQL statements that read, report, count and delete messages of requests. Contains no business rules.

use kith_kernel::UserId;
use kith_store::{Error, FromRow as _, Query, Tx, params, row_columns};

use super::super::model::{PartnerRequestId, ReportReason, RequestParties, RequestReport};

/// Returns the message of a request that `recipient` received, even if they can no longer see the request.
pub fn find_received_message(
    q: &Query<'_>,
    id: PartnerRequestId,
    recipient: UserId,
) -> Result<Option<Option<String>>, Error> {
    let sql = "SELECT message FROM partner_requests WHERE id = $1 AND to_user = $2";
    q.one(sql, params![id, recipient], |row| row.get(0))
}

/// Inserts a report unless the user has already reported this request. Returns `true` if it was inserted.
pub fn insert_report(
    tx: &Tx<'_>,
    report: &RequestReport,
    parties: RequestParties,
    reporter: UserId,
    reason: ReportReason,
    note: Option<&str>,
) -> Result<bool, Error> {
    let inserted = tx.exec(
        "INSERT INTO request_reports (id, request_id, reporter, reported, message, reason, note, created_at)
         VALUES ($1, $2, $3, $4, (SELECT message FROM partner_requests WHERE id = $2), $5, $6, $7)
         ON CONFLICT DO NOTHING",
        params![report.id, parties.request, reporter, parties.from, reason.as_str(), note, report.created_at],
    )?;
    Ok(inserted == 1)
}

row_columns! {
    report_columns => RequestReport { id = "id", created_at = "created_at" }
}

pub fn find_report(
    q: &Query<'_>,
    request: PartnerRequestId,
    reporter: UserId,
) -> Result<Option<RequestReport>, Error> {
    q.one(
        concat!(
            "SELECT ",
            report_columns!(),
            " FROM request_reports WHERE request_id = $1 AND reporter = $2"
        ),
        params![request, reporter],
        RequestReport::read_row,
    )
}

/// Counts the requests of `user` that have a message.
pub fn count_messages(q: &Query<'_>, user: UserId) -> Result<i64, Error> {
    let sql = "SELECT COUNT(*) FROM partner_requests WHERE from_user = $1 AND message IS NOT NULL";
    Ok(q.one(sql, params![user], |row| row.get(0))?.unwrap_or(0))
}

/// Deletes the e-mail addresses of up to `limit` requests with an ID of at most `until`. All addresses have
/// the same retention, because a difference would reveal whether an account has the address.
pub fn delete_email_addresses(tx: &Tx<'_>, until: PartnerRequestId, limit: i64) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE partner_requests SET to_email = '', to_email_key = NULL WHERE id IN
            (SELECT id FROM partner_requests WHERE to_email_key IS NOT NULL AND id <= $1 ORDER BY id LIMIT $2)",
        params![until, limit],
    )?;
    Ok(())
}

/// Deletes a user's data from requests and reports. Deletes the messages and e-mail addresses of requests
/// that `user` sent, the notes of their reports, and the messages in reports about them. Replaces their
/// display name by `name`. The reports themselves stay.
pub fn delete_messages(tx: &Tx<'_>, user: UserId, name: &str) -> Result<(), Error> {
    tx.exec_deferred(
        "UPDATE partner_requests
         SET message = NULL, from_name = $2, to_email = CASE WHEN to_email IS NULL THEN NULL ELSE '' END,
             to_email_key = NULL
         WHERE from_user = $1",
        params![user, name],
    )?;
    tx.exec_deferred("UPDATE partner_requests SET to_name = $2 WHERE to_user = $1", params![user, name])?;
    tx.exec_deferred("UPDATE request_reports SET note = NULL WHERE reporter = $1", params![user])?;
    tx.exec_deferred("UPDATE request_reports SET message = NULL WHERE reported = $1", params![user])?;
    Ok(())
}
