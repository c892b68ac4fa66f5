//! Writing new messages and parts, line ends CRLF.

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    MailError, MemoryContent, NewPart, WriteOptions, Zoned,
    changes::name_of,
    dkim::{SignOptions, SigningKey, sign},
    header::HeaderIndex,
    message::written_field,
    mime::{TransferEncoding, params::write_parameter},
    words::unfold,
};

/// Most parts put into one builder; scripts that loop must not fill the memory.
const CHILDREN_MAX: usize = super::PARTS_MAX;

/// A message or part under construction.
#[derive(Clone, Default)]
pub struct Builder {
    /// Written fields in order.
    headers: Vec<Bytes>,
    kind: Option<String>,
    boundary: Option<String>,
    body: Vec<u8>,
    children: Vec<NewPart>,
    file_name: Option<String>,
    disposition: Option<String>,
    signatures: Vec<(SigningKey, SignOptions)>,
}

impl Builder {
    /// Adds a field behind those added before.
    ///
    /// # Errors
    /// [`MailError::HeaderName`].
    pub fn add_header(&mut self, name: &str, value: &[u8], options: WriteOptions) -> Result<(), MailError> {
        self.headers.push(written_field(name, value, options)?.into());
        Ok(())
    }

    /// Whether a field of that name was added.
    pub fn has_header(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|field| name_of(field).eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Adds a part; the type should be a multipart.
    ///
    /// # Errors
    /// [`MailError::NoPart`] beyond the most parts a message may have.
    pub fn append(&mut self, part: NewPart) -> Result<(), MailError> {
        if self.children.len() >= CHILDREN_MAX {
            return Err(MailError::NoPart(self.children.len()));
        }
        self.children.push(part);
        Ok(())
    }

    /// Sets the body; with parts inside it is the preamble.
    pub fn set_body(&mut self, body: Vec<u8>) {
        self.body = body;
    }

    /// Sets the type, parameters included.
    pub fn set_type(&mut self, kind: &str) {
        self.kind = Some(one_line(kind));
    }

    /// Sets the boundary between parts.
    pub fn set_boundary(&mut self, boundary: &str) {
        self.boundary = Some(one_line(boundary).replace('"', ""));
    }

    /// Adds a Date field.
    ///
    /// # Errors
    /// [`MailError::Time`].
    pub fn set_date(&mut self, time: &Zoned) -> Result<(), MailError> {
        self.headers.retain(|field| !name_of(field).eq_ignore_ascii_case(b"Date"));
        let field = format!("Date: {}\r\n", time.rfc5322()?);
        self.headers.push(field.into());
        Ok(())
    }

    /// Sets the file name; the disposition becomes `attachment` unless it is set.
    pub fn set_file_name(&mut self, name: &str) {
        self.file_name = Some(name.to_owned());
    }

    /// Sets the disposition, such as `inline`.
    pub fn set_disposition(&mut self, kind: &str) {
        self.disposition = Some(one_line(kind));
    }

    /// Signs what comes out, on top of earlier signatures.
    pub fn sign(&mut self, key: SigningKey, options: SignOptions) {
        self.signatures.push((key, options));
    }

    /// The whole message: `MIME-Version` is added, then the signatures.
    ///
    /// # Errors
    /// Signing failed.
    pub fn message(&self) -> Result<Vec<u8>, MailError> {
        let mut out = self.write(true);
        for (key, options) in &self.signatures {
            let value = sign(&MemoryContent(Bytes::copy_from_slice(&out)), key, options)?;
            out.splice(0..0, format!("{}: {value}\r\n", options.field_name()).into_bytes());
        }
        Ok(out)
    }

    /// As a part of another message.
    pub fn part(&self) -> NewPart {
        NewPart(self.write(false).into())
    }

    fn write(&self, top: bool) -> Vec<u8> {
        let mut out: Vec<u8> = self.headers.concat();
        if top && !self.has_header("MIME-Version") {
            out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        let boundary = self.write_type(&mut out);
        self.write_disposition(&mut out);
        if self.children.is_empty() {
            self.write_body(&mut out);
            return out;
        }
        out.extend_from_slice(b"\r\n");
        if !self.body.is_empty() {
            out.extend_from_slice(&self.body);
            if !self.body.ends_with(b"\n") {
                out.extend_from_slice(b"\r\n");
            }
        }
        for child in &self.children {
            out.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
            out.extend_from_slice(&child.0);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        out
    }

    /// Writes Content-Type where none was added; gives the boundary in force.
    fn write_type(&self, out: &mut Vec<u8>) -> String {
        if let Some(field) = self.header("Content-Type") {
            let value = unfold(&field[name_of(field).len() + 1..]);
            let named = super::Parameters::parse(&value).raw("boundary");
            let named = named.map(|boundary| String::from_utf8_lossy(&boundary).into_owned());
            return named.or_else(|| self.boundary.clone()).unwrap_or_default();
        }
        let kind = self.kind.as_deref().unwrap_or("text/plain");
        let parameters = super::Parameters::parse(kind.as_bytes());
        let mut value = kind.trim_end_matches([';', ' ']).to_owned();
        let mut boundary = parameters.get("boundary").or_else(|| self.boundary.clone());
        if parameters.value().starts_with("text/") && parameters.raw("charset").is_none() {
            value.push_str("; charset=utf-8");
        }
        if (parameters.value().starts_with("multipart/") || !self.children.is_empty())
            && parameters.raw("boundary").is_none()
        {
            let chosen = boundary.get_or_insert_with(|| Uuid::new_v4().to_string());
            value.push_str(&format!(";\r\n\tboundary=\"{chosen}\""));
        }
        if let Some(name) = &self.file_name
            && parameters.raw("name").is_none()
            && name.is_ascii()
        {
            value.push_str(&format!(";\r\n\t{}", write_parameter("name", name)));
        }
        out.extend_from_slice(format!("Content-Type: {value}\r\n").as_bytes());
        boundary.unwrap_or_default()
    }

    fn write_disposition(&self, out: &mut Vec<u8>) {
        if self.header("Content-Disposition").is_some()
            || (self.file_name.is_none() && self.disposition.is_none())
        {
            return;
        }
        let mut value = self.disposition.clone().unwrap_or_else(|| "attachment".to_owned());
        if let Some(name) = &self.file_name {
            value.push_str(&format!(";\r\n\t{}", write_parameter("filename", name)));
        }
        out.extend_from_slice(format!("Content-Disposition: {value}\r\n").as_bytes());
    }

    /// Writes Content-Transfer-Encoding where it is needed, the blank line and the body.
    fn write_body(&self, out: &mut Vec<u8>) {
        let index = HeaderIndex::parse(out);
        let kind = index.named("Content-Type").next();
        let kind = kind.map(|field| super::Parameters::parse(&unfold(index.body(field))));
        let text = kind.is_none_or(|kind| kind.value().starts_with("text/"));
        if let Some(field) = self.header("Content-Transfer-Encoding") {
            let encoding = TransferEncoding::from_name(&unfold(&field[name_of(field).len() + 1..]));
            out.extend_from_slice(b"\r\n");
            // The body is given as coded; raw bytes under a base64 header are coded here.
            if encoding == Some(TransferEncoding::Base64) && !looks_like_base64(&self.body) {
                out.extend(TransferEncoding::Base64.encode(&self.body, false));
            } else {
                out.extend_from_slice(&self.body);
            }
            return;
        }
        let encoding = TransferEncoding::best(&self.body, text);
        if encoding != TransferEncoding::SevenBit {
            out.extend_from_slice(format!("Content-Transfer-Encoding: {}\r\n", encoding.name()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend(encoding.encode(&self.body, text));
    }
}

fn looks_like_base64(body: &[u8]) -> bool {
    body.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=\r\n \t".contains(b))
}

/// A script's text cannot end its field.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FieldOptions;
    use std::sync::Arc;

    fn read(bytes: Vec<u8>) -> crate::MailMessage {
        crate::MailMessage::new(Arc::new(MemoryContent(bytes.into())))
    }

    #[test]
    fn a_plain_message() {
        let mut b = Builder::default();
        b.add_header("Subject", "f\u{fc}r".as_bytes(), WriteOptions::default()).unwrap();
        b.set_body(b"Hello\n".to_vec());
        assert_eq!(
            String::from_utf8(b.message().unwrap()).unwrap(),
            "Subject: =?UTF-8?Q?f=C3=BCr?=\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello\r\n"
        );
    }

    #[test]
    fn nested_and_injected() {
        let mut inner = Builder::default();
        inner.set_type("image/png\r\nBcc: x");
        inner.set_file_name("r\u{e9}sum\u{e9}\r\n.png");
        inner.set_body(vec![0, 255, 1]);
        let mut b = Builder::default();
        b.set_type("multipart/mixed");
        b.set_boundary("B\"\r\nX: y");
        b.set_body(b"preamble".to_vec());
        b.append(inner.part()).unwrap();
        let bytes = b.message().unwrap();
        let m = read(bytes);
        assert_eq!(m.header_names().unwrap(), ["mime-version", "content-type"]);
        assert_eq!(m.tree().unwrap().parts().len(), 2);
        assert_eq!(m.body(1, true).unwrap().unwrap(), [0, 255, 1]);
        assert_eq!(m.preamble(0).unwrap().unwrap(), b"preamble");
        assert_eq!(m.file_name(1).unwrap().as_deref(), Some("r\u{e9}sum\u{e9}.png"));
        assert!(m.part_field(1, "Bcc", 0, FieldOptions::default()).unwrap().is_none());
        assert!(m.part_errors(0).unwrap().names().next().is_none());
    }

    #[test]
    fn given_encodings() {
        let mut b = Builder::default();
        b.add_header("Content-Transfer-Encoding", b"base64", WriteOptions::default()).unwrap();
        b.add_header("Content-Type", b"application/pkcs7-mime", WriteOptions::default()).unwrap();
        b.set_body(vec![0, 1, 2]);
        assert!(b.message().unwrap().ends_with(b"\r\n\r\nAAEC\r\n"));
        b.set_body(b"AAEC".to_vec());
        assert!(b.message().unwrap().ends_with(b"\r\n\r\nAAEC"));
    }
}
