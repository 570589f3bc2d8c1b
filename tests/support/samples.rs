//! Well-formed input of every parser of untrusted bytes, to start from: what other tools made
//! (`tests/data`) where there is some.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use nacre::{
    engine::{Profile, Run},
    fuzzing,
    index::{self, Algorithm, BuiltIndex, Claim, build},
    oci::Digest,
    profile,
    source::MemoryBlob,
    tar::{TarEntry, TarReader},
};

/// A parser with input that it accepts.
pub(crate) struct Parser {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]) -> usize,
    pub(crate) samples: Vec<Vec<u8>>,
}

/// All parsers that `nacre::fuzzing` gives.
pub(crate) fn parsers() -> Vec<Parser> {
    let parser = |name, run, samples| Parser { name, run, samples };
    vec![
        parser("annotations", fuzzing::annotations, annotations()),
        parser("estargz", fuzzing::estargz, estargz()),
        #[cfg(feature = "pgp")]
        parser("gpg", fuzzing::gpg, gpg()),
        parser("gzip_stream", fuzzing::gzip_stream, gzip_streams()),
        parser("headers", fuzzing::headers, texts(&HEADERS)),
        parser("kept_index", fuzzing::kept_index, kept_indexes()),
        parser("keys", fuzzing::keys, keys()),
        parser("manifest", fuzzing::manifest, texts(&MANIFESTS)),
        parser("multipart", fuzzing::multipart, multiparts()),
        parser("nacre_index", fuzzing::nacre_index, nacre_indexes()),
        parser("packets", fuzzing::packets, packets()),
        parser("policy", fuzzing::policy, policies()),
        parser("profile", fuzzing::profile, profiles()),
        parser("reference", fuzzing::reference, texts(&REFERENCES)),
        parser("signatures", fuzzing::signatures, texts(&SIGNATURES)),
        parser("tar", fuzzing::tar, tars()),
        parser("toc", fuzzing::toc, tables()),
        parser("zstd_stream", fuzzing::zstd_stream, zstd_streams()),
        parser("ztoc", fuzzing::ztoc, vec![read("index/layer.ztoc")]),
    ]
}

/// Of one member, of several, and flushed in between.
fn gzip_streams() -> Vec<Vec<u8>> {
    let text = "a line of text, and another one\n".repeat(300);
    let member = |text: &str, every: usize| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        for part in text.as_bytes().chunks(every) {
            encoder.write_all(part).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    };
    let several = [member("", 1), member(&text, 900), member("end", 9)].concat();
    vec![member(&text, 1 << 20), member(&text, 500), several]
}

/// Of the layer that other tools packed.
fn built() -> BuiltIndex {
    let layer = read("index/layer.tar.gz");
    let mut tar = Vec::new();
    MultiGzDecoder::new(&layer[..])
        .read_to_end(&mut tar)
        .unwrap();
    let claim = Claim {
        compression: nacre::oci::media_type::Compression::Gzip,
        diff_id: Digest::sha256(&tar),
        spacing: nacre::codec::DEFAULT_SPACING,
    };
    let keep = Box::new(|bytes: bytes::Bytes| Algorithm::Blake3.digest(&bytes));
    let blob = std::sync::Arc::new(MemoryBlob::new(layer.into()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(build(blob, claim, keep)).unwrap()
}

fn kept_indexes() -> Vec<Vec<u8>> {
    vec![zstd::bulk::decompress(&built().document(), 64 << 20).unwrap()]
}

/// A table of it, and the tables of an artifact.
fn nacre_indexes() -> Vec<Vec<u8>> {
    let (blob, diff_id) = (built().subject().blob.clone(), [1; 32]);
    let layer = index::nacre::Layer {
        index: built().into_index(),
        tar_size: 143_360,
        diff_id,
    };
    let table = index::nacre::write_table(&layer).unwrap();
    let part = index::nacre::encode(&layer, &blob, None).unwrap();
    vec![table, index::nacre::tables(&[part])]
}

/// Of one frame, and of several with one to skip between them.
fn zstd_streams() -> Vec<Vec<u8>> {
    let text = "a line of text, and another one\n".repeat(300);
    let frame = |text: &str| zstd::bulk::compress(text.as_bytes(), 3).unwrap();
    let skipped = b"\x50\x2a\x4d\x18\x04\0\0\0toc!".to_vec();
    let several = [frame("one"), skipped, frame(""), frame(&text)].concat();
    vec![frame(&text), several]
}

/// The first byte says in which pieces they arrive.
fn multiparts() -> Vec<Vec<u8>> {
    [7, 255]
        .map(|step| {
            let parts =
                b"\r\n--X-y\r\nContent-Type: a/b\r\nContent-Range: bytes 5-9/1073741824\r\n\r\n\
                01234\r\n--X-y\r\ncontent-range:bytes 90-91/*\r\n\r\nzz\r\n--X-y--\r\n";
            [&[step], &parts[..]].concat()
        })
        .to_vec()
}

/// As they are before their compression.
fn profiles() -> Vec<Vec<u8>> {
    let run = |layer, bytes| Run { layer, bytes };
    let runs = vec![run(1, 5000..9000), run(0, 0..300), run(1, 9000..1 << 33)];
    let document = profile::encode(&Profile { runs }).unwrap();
    vec![zstd::bulk::decompress(&document, 4096).unwrap()]
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(data(name)).unwrap()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// GnuPG's keys and signed messages.
#[cfg(feature = "pgp")]
fn gpg() -> Vec<Vec<u8>> {
    let names = [
        "good.gpg",
        "good.asc",
        "rsa.gpg",
        "sub.gpg",
        "lost.gpg",
        "revoked.gpg",
        "good.sig",
        "plain.sig",
        "armored.sig",
        "rsa.sig",
        "twice.sig",
        "encrypted.sig",
    ];
    names.map(|name| read(&format!("gpg/{name}"))).to_vec()
}

const ESTARGZ: [&str; 5] = ["plain", "inner", "landmark", "legacy", "small"];

/// Blobs from where their footers put the table of contents.
fn estargz() -> Vec<Vec<u8>> {
    ESTARGZ
        .into_iter()
        .map(|name| {
            let blob = read(&format!("index/{name}.blob"));
            // Both forms of the footer end alike.
            let digits = blob.len() - 35;
            let offset = std::str::from_utf8(&blob[digits..digits + 16]).unwrap();
            let offset = usize::from_str_radix(offset, 16).unwrap();
            blob[offset..].to_vec()
        })
        .collect()
}

fn tables() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = estargz()
        .into_iter()
        .map(|tail| {
            let mut tar = TarReader::new(MultiGzDecoder::new(&tail[..]));
            assert_eq!(tar.next().unwrap().unwrap().name, b"stargz.index.json");
            let mut json = Vec::new();
            tar.read_to_end(&mut json).unwrap();
            json
        })
        .collect();
    for name in ["zstd", "podman"] {
        let layer: serde_json::Value =
            serde_json::from_slice(&read(&format!("index/{name}.json"))).unwrap();
        let position = layer["io.containers.zstd-chunked.manifest-position"]
            .as_str()
            .or_else(|| layer["io.github.containers.zstd-chunked.manifest-position"].as_str())
            .unwrap();
        let mut numbers = position.split(':').map(|n| n.parse::<usize>().unwrap());
        let (offset, length) = (numbers.next().unwrap(), numbers.next().unwrap());
        let blob = read(&format!("index/{name}.blob"));
        all.push(zstd::decode_all(&blob[offset..offset + length]).unwrap());
    }
    all
}

fn tars() -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    MultiGzDecoder::new(&read("index/layer.tar.gz")[..])
        .read_to_end(&mut whole)
        .unwrap();
    // Without the contents of large files: what is parsed is headers.
    let mut reader = TarReader::new(&whole[..]);
    let mut small = Vec::new();
    while let Some(TarEntry { size, .. }) = reader.next().unwrap() {
        if size <= 4096 {
            small.extend_from_slice(reader.raw());
            reader.read_to_end(&mut small).unwrap();
            small.resize(small.len().next_multiple_of(512), 0);
        }
    }
    let mut all = vec![small];
    let block = |kind: u8, name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[156] = kind;
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    for records in [
        "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n28 GNU.sparse.realsize=3000\n",
        "23 GNU.sparse.map=0,20\n24 GNU.sparse.size=3000\n",
        "23 GNU.sparse.offset=0\n26 GNU.sparse.numbytes=20\n24 GNU.sparse.size=3000\n",
        "20 mtime=-1.5000000\n10 uid=70\n27 SCHILY.xattr.user.a=b\n0\n",
    ] {
        let mut content = b"1\n0\n20\n".to_vec();
        if records.contains("major") {
            content.resize(512, 0);
        } else {
            content.clear();
        }
        content.extend([b'x'; 20]);
        all.push(
            [
                block(b'x', "x", records.as_bytes()),
                block(b'0', "f", &content),
            ]
            .concat(),
        );
    }
    let long = [&[b'n'; 300][..], b"\0"].concat();
    all.push([block(b'L', "long", &long), block(b'2', "link", b"")].concat());
    all
}

fn annotations() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = ["plain", "zstd", "podman"]
        .into_iter()
        .map(|name| read(&format!("index/{name}.json")))
        .collect();
    let packet = base64(&packets()[0]);
    let coco = base64(&read("ocicrypt/coco_packet_v1_annotation.json"));
    let options = base64(PUBLIC_OPTIONS.as_bytes());
    all.push(
        serde_json::json!({
            "org.opencontainers.image.enc.pubopts": options,
            "org.opencontainers.image.enc.keys.jwe": format!("{packet},{packet}"),
            "org.opencontainers.image.enc.keys.provider.attestation-agent": coco,
            "dev.cosignproject.cosign/signature": "MEUCIQ==",
        })
        .to_string()
        .into_bytes(),
    );
    all
}

fn packets() -> Vec<Vec<u8>> {
    let jwe = serde_json::json!({
        // {"alg":"RSA-OAEP","enc":"A256GCM"}
        "protected": "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ",
        "encrypted_key": "AAAA",
        "iv": "AAAAAAAAAAAAAAAA",
        "ciphertext": "AAAA",
        "tag": "AAAAAAAAAAAAAAAAAAAAAA",
    });
    let general = serde_json::json!({
        "protected": "eyJlbmMiOiJBMjU2R0NNIn0",
        "recipients": [{ "header": { "alg": "ECDH-ES+A128KW", "epk": {
            "kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA",
        } }, "encrypted_key": "AAAA" }],
        "iv": "AAAAAAAAAAAAAAAA",
        "ciphertext": "AAAA",
        "tag": "AAAAAAAAAAAAAAAAAAAAAA",
    });
    vec![
        jwe.to_string().into_bytes(),
        general.to_string().into_bytes(),
        read("ocicrypt/coco_packet_v1_annotation.json"),
        PUBLIC_OPTIONS.as_bytes().to_vec(),
    ]
}

/// Private options beside the public ones, so that both are read.
const PUBLIC_OPTIONS: &str = r#"{"cipher":"AES_256_CTR_HMAC_SHA256",
"hmac":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
"symkey":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","digest":"sha256:
0000000000000000000000000000000000000000000000000000000000000000",
"cipheroptions":{"nonce":"AAAAAAAAAAAAAAAAAAAAAA=="}}"#;

fn keys() -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(data("ocicrypt/keys"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

const HEADERS: [&str; 8] = [
    "bytes 0-99/1000",
    "bytes */1000",
    "120",
    "Wed, 21 Oct 2026 07:28:00 GMT",
    r#"<https://registry.example/v2/a/referrers/x?n=2>; rel="next""#,
    r#"</v2/>; a=b, <x>; rel=next"#,
    r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a:pull""#,
    r#"Basic realm="a, \"b\"", Bearer realm=x"#,
];

const MANIFESTS: [&str; 2] = [
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":
"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[
{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":9,"annotations":{"a":"b"},
"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}]}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":7,"digest":
"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
"platform":{"os":"linux","architecture":"amd64","variant":"v2"}}]}"#,
];

fn policies() -> Vec<Vec<u8>> {
    POLICIES
        .iter()
        .map(|policy| policy.replace("KEY", PUBLIC_KEY).into_bytes())
        .collect()
}

/// A PEM file of an ECDSA key.
const PUBLIC_KEY: &str = concat!(
    "LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0KTUZrd0V3WUhLb1pJemowQ0FRWUlLb1pJemowREFRY0RRZ0FFQUtLLz",
    "BWc3hRNnliYTBMbEd0aXFZR1V0T1RKNgpkUjg1WmtaaW5xeEpZOVNyNGxhR1VDYUVTWTVUYlgvZWVHWnhmUTZYaXdW",
    "V0lSTDdkVEQrL1lRc05RPT0KLS0tLS1FTkQgUFVCTElDIEtFWS0tLS0tCg==",
);

const POLICIES: [&str; 2] = [
    r#"{"default":[{"type":"reject"}],"transports":{"docker":{"":[{"type":"insecureAcceptAnything"}],
"registry.example/a":[{"type":"sigstoreSigned","keyData":"KEY","signedIdentity":
{"type":"remapIdentity","prefix":"a.example/b","signedPrefix":"c.example"}}],"*.example":
[{"type":"sigstoreSigned","keyDatas":["KEY","KEY"],"signedIdentity":{"type":"matchRepository"}}]},
"oci":{"/a/b":[{"type":"reject"}]}}}"#,
    r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
];

const REFERENCES: [&str; 8] = [
    "registry.example:5000/a/b_c:tag-1",
    "registry.example/a@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "a/b:1@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "busybox",
    "[::1]:5000/a",
    "oci:/a/b:tag",
    "oci:dir",
    "linux/arm64/v8",
];

const SIGNATURES: [&str; 3] = [
    r#"{"critical":{"identity":{"docker-reference":"a.example/b"},"image":{"docker-manifest-digest":
"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"type":
"cosign container image signature"},"optional":{"a":[1,-2.5e3,"\u00e4\ud83d\ude00",null]}}"#,
    r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":
{"publicKey":{"hint":"a"}},"dsseEnvelope":{"payload":"e30=","payloadType":
"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}}"#,
    r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":
{"publicKey":{}},"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":
"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},"signature":"AAAA"}}"#,
];
