#!/bin/bash
# Signs a configuration file: writes <base>.sig and <base>.cert beside <base>.conf.
#
# Interface: crypto.md 3.4 and, for the positional form, protocol.md 5.6. Digest and padding:
# crypto.md 3.2; ECDSA is the extension named in protocol.md 5.6.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
usage: sign_config.sh -c CONF -k KEY --cert PEM [--cert PEM ...] [-p PASS_FILE]
       sign_config.sh CONF KEY CERT

Signs CONF (SHA-512, raw binary signature) and writes CONF's .sig and .cert beside it.

  -c, --config FILE   configuration, must end in .conf
  -k, --key FILE      private key (PEM)
      --cert FILE     certificate of the key (PEM), its intermediates in the same file or in
                      further --cert files; the first certificate is the signer's
  -p, --pass FILE     pass phrase of the key, first line of FILE
  -h, --help          this text

The padding follows the public key in the certificate: rsassaPss gives PSS (MGF1 SHA-512, salt as
long as the digest), rsaEncryption gives PKCS#1 v1.5, an EC key gives ECDSA. The signature is
verified with the certificate before anything is written. A signature that is already there and
still fits is kept.
USAGE
}

conf='' key='' pass='' certs=()
if [ $# -eq 3 ] && [[ $1 != -* ]]; then
    conf=$1 key=$2 certs=("$3")
else
    while [ $# -gt 0 ]; do
        case $1 in
        -c | --config) need_value "$1" $#; conf=$2; shift 2 ;;
        -k | --key) need_value "$1" $#; key=$2; shift 2 ;;
        --cert) need_value "$1" $#; certs+=("$2"); shift 2 ;;
        -p | --pass) need_value "$1" $#; pass=$2; shift 2 ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) usage_error "unexpected argument '$1'" ;;
        esac
    done
fi
[ -n "$conf" ] || usage_error "no configuration given (-c)"
[ -n "$key" ] || usage_error "no private key given (-k)"
[ ${#certs[@]} -gt 0 ] || usage_error "no certificate given (--cert)"
[[ $conf == *.conf ]] || usage_error "the configuration '$conf' must end in .conf"

need openssl openssl
need_file "$conf"
need_file "$key"
passin=()
if [ -n "$pass" ]; then
    need_file "$pass"
    passin=(-passin "file:$pass")
fi

base=${conf%.conf}
work=$(mktemp -d "$(dirname -- "$conf")/.sign.XXXXXX") || die "cannot write beside '$conf'"
trap 'rm -rf -- "$work"' EXIT

for cert in "${certs[@]}"; do
    need_file "$cert"
    grep -q -- '-----BEGIN CERTIFICATE-----' "$cert" || die "'$cert' holds no PEM certificate"
    # A file without a line end would glue two PEM markers together.
    printf '%s\n' "$(cat -- "$cert")"
done >"$work/cert"

openssl x509 -in "$work/cert" -noout -pubkey >"$work/pub" 2>"$work/log" ||
    die "cannot read the certificate '${certs[0]}': $(tail -n1 "$work/log")"
openssl pkey -in "$key" ${passin[@]+"${passin[@]}"} -pubout -out "$work/keypub" </dev/null 2>"$work/log" ||
    die "cannot read the private key '$key' (wrong pass phrase?): $(tail -n1 "$work/log")"
cmp -s "$work/pub" "$work/keypub" ||
    die "the private key '$key' does not belong to the first certificate of '${certs[0]}'"

algorithm=$(openssl x509 -in "$work/cert" -noout -text | sed -n 's/^ *Public Key Algorithm: //p')
case $algorithm in
rsassaPss)
    options=(-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -sigopt rsa_mgf1_md:sha512)
    ;;
rsaEncryption) options=(-sigopt rsa_padding_mode:pkcs1) ;;
id-ecPublicKey) options=() ;;
*) die "keys of type '$algorithm' cannot sign configurations; use rsassaPss, RSA or EC" ;;
esac

# verify SIGNATURE
verify() {
    openssl dgst -sha512 -verify "$work/pub" ${options[@]+"${options[@]}"} -signature "$1" \
        "$conf" >"$work/log" 2>&1
}

if cmp -s "$work/cert" "$base.cert" && [ -f "$base.sig" ] && verify "$base.sig"; then
    exit 0
fi

openssl dgst -sha512 -sign "$key" ${passin[@]+"${passin[@]}"} ${options[@]+"${options[@]}"} \
    -out "$work/sig" "$conf" </dev/null 2>"$work/log" || die "signing '$conf' failed: $(tail -n1 "$work/log")"
verify "$work/sig" ||
    die "the new signature of '$conf' does not verify with '${certs[0]}': $(tail -n1 "$work/log")"

chmod 0644 "$work/cert" "$work/sig"
mv -f -- "$work/cert" "$base.cert"
mv -f -- "$work/sig" "$base.sig"
