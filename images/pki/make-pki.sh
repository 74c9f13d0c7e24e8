#!/bin/bash
# Makes the test PKI: what signs software in crypto.md 3.5, plus signers that must be refused or
# treated differently. For tests and development only; the keys are not protected.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

usage() {
    cat <<'USAGE'
usage: make-pki.sh OUTDIR [rsa:BITS|ec:CURVE]

Fills OUTDIR with keys (mode 0600, no pass phrase) and PEM certificates; default rsa:4096.
Does nothing if OUTDIR is complete.

  ssig_rootca     root for software signing
  ssig_subca_cml  sub CA of the configuration signer (rsassaPss)
  ssig_cml        signs guest OS and container configurations (rsassaPss); file: leaf, sub CA
  ssig_subca      sub CA with a plain RSA key; file: sub CA, root
  ssig            signer with a plain RSA key (PKCS#1 v1.5); file: leaf, sub CA, root
  ssig_ec         signer with a P-256 key, issued by the root itself
  ssig_expired    like ssig_cml, but its validity ended a year ago
  localca_rootca  independent root for locally signed images
  local           signer below it (rsassaPss)
  rogue_rootca    root that nobody trusts
  rogue           signer below it (rsassaPss); file: leaf, root

ec:CURVE (for example ec:P-256) makes every key an EC key.
USAGE
}

case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
'' | -*) usage_error "no output directory given" ;;
esac
[ $# -le 2 ] || usage_error "too many arguments"
asked=${2-}
type=${asked:-rsa:4096}
kind=${type%%:*}
size=${type#*:}
case $type in
rsa:*)
    if ! [[ $size =~ ^[0-9]{4,5}$ ]] || [ "$size" -lt 2048 ] || [ "$size" -gt 16384 ]; then
        usage_error "'$type': RSA keys must have 2048 to 16384 bits"
    fi
    ;;
ec:?*) ;;
*) usage_error "'$type' is no key type; use rsa:BITS or ec:CURVE" ;;
esac
need openssl openssl
if [ "$kind" = ec ]; then
    openssl genpkey -algorithm EC -pkeyopt "ec_paramgen_curve:$size" -out /dev/null 2>/dev/null ||
        usage_error "the curve '$size' is unknown"
fi

names=(ssig_rootca ssig_subca_cml ssig_cml ssig_subca ssig ssig_ec ssig_expired
    localca_rootca local rogue_rootca rogue)

enter_outdir "$1"
present=0
for name in "${names[@]}"; do
    for file in "$OUT/$name.key" "$OUT/$name.cert"; do
        if [ -s "$file" ]; then present=$((present + 1)); fi
    done
done
if [ "$present" -eq $((2 * ${#names[@]})) ] && [ -s "$OUT/key-type" ]; then
    made=$(cat "$OUT/key-type")
    [ -z "$asked" ] || [ "$asked" = "$made" ] ||
        die "'$OUT' already holds a PKI of type $made; choose another directory for $asked"
    exit 0
fi
# Half a PKI is not repaired: new roots would silently invalidate what the old ones signed.
[ "$present" -eq 0 ] || die "'$OUT' holds only a part of the PKI; remove it and run again"

new=$WORK/new
mkdir "$new"
umask 077

# genkey NAME primary|secondary|p256: "secondary" keys are the rsassaPss ones of crypto.md 3.5,
# without parameter restrictions.
genkey() {
    local args
    case $2:$kind in
    p256:*) args=(-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:named_curve) ;;
    *:ec) args=(-algorithm EC -pkeyopt "ec_paramgen_curve:$size" -pkeyopt ec_param_enc:named_curve) ;;
    primary:rsa) args=(-algorithm RSA -pkeyopt "rsa_keygen_bits:$size") ;;
    secondary:rsa) args=(-algorithm RSA-PSS -pkeyopt "rsa_keygen_bits:$size") ;;
    esac
    openssl genpkey "${args[@]}" -out "$new/$1.key" 2>"$WORK/$1.log"
}

jobs=()
for name in "${names[@]}"; do
    case $name in
    ssig_rootca | ssig_subca | ssig | localca_rootca | rogue_rootca) class=primary ;;
    ssig_ec) class=p256 ;;
    *) class=secondary ;;
    esac
    genkey "$name" "$class" &
    jobs+=("$!")
done
for i in "${!jobs[@]}"; do
    wait "${jobs[$i]}" || die "key generation for '${names[$i]}' failed: $(cat "$WORK/${names[$i]}.log")"
done

# `openssl ca` because `openssl x509` cannot set the begin of the validity. The random serial
# numbers need no serial file. AIA and CRL URLs of the original are left out: nobody reads them.
cat >"$WORK/ca.conf" <<CONF
[ca]
default_ca = test
[test]
database = $WORK/index
new_certs_dir = $WORK
unique_subject = no
rand_serial = yes
default_md = sha256
policy = any
email_in_dn = no
[any]
countryName = optional
organizationName = optional
organizationalUnitName = optional
commonName = supplied
[req]
distinguished_name = dn
[dn]
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[sub]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid, issuer
[leaf]
basicConstraints = critical, CA:false
keyUsage = critical, nonRepudiation, digitalSignature, keyEncipherment
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid, issuer
[leaf_ec]
basicConstraints = critical, CA:false
keyUsage = critical, nonRepudiation, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid, issuer
CONF
: >"$WORK/index"

# when OFFSET: a time as openssl ca wants it.
when() {
    date -u -d "$1" +%Y%m%d%H%M%SZ
}

# issue NAME ISSUER SECTION CN FROM UNTIL
issue() {
    local name=$1 issuer=$2 section=$3 cn=$4 from=$5 until=$6
    local options=() by=()
    if [ "$kind" = ec ] && [ "$section" = leaf ]; then section=leaf_ec; fi
    if [ "$name" = "$issuer" ]; then
        by=(-selfsign)
    else
        by=(-cert "$WORK/$issuer.pem")
    fi
    # Certificates by rsassaPss issuers carry PSS, SHA-256, salt 32 (crypto.md 3.5).
    if [ "$kind" = rsa ] && [ "$issuer" = ssig_subca_cml ]; then
        options=(-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32)
    fi
    openssl req -new -config "$WORK/ca.conf" -key "$new/$name.key" -sha256 -utf8 \
        -subj "/C=DE/O=CML Test/OU=Development/CN=$cn" -out "$WORK/$name.csr" 2>"$WORK/log" ||
        die "the request for '$name' failed: $(tail -n1 "$WORK/log")"
    openssl ca -batch -notext -config "$WORK/ca.conf" "${by[@]}" -keyfile "$new/$issuer.key" \
        -extensions "$section" -startdate "$(when "$from")" -enddate "$(when "$until")" \
        ${options[@]+"${options[@]}"} -in "$WORK/$name.csr" -out "$WORK/$name.pem" 2>"$WORK/log" ||
        die "the certificate for '$name' failed: $(cat "$WORK/log")"
}

# Days as in crypto.md 3.5: root 3650, sub CA 2190, leaf 1095.
# A day early, so that a machine whose clock is a little behind sees no certificates from the future.
begin='1 day ago'
root='3650 days' sub='2190 days' leaf='1095 days'
issue ssig_rootca ssig_rootca root "CML Test Software Signing Root CA" "$begin" "$root"
issue ssig_subca_cml ssig_rootca sub "CML Test Configuration Signing Sub CA" "$begin" "$sub"
issue ssig_cml ssig_subca_cml leaf "CML Test Configuration Signing Certificate" "$begin" "$leaf"
issue ssig_subca ssig_rootca sub "CML Test Software Signing Sub CA" "$begin" "$sub"
issue ssig ssig_subca leaf "CML Test Software Signing Certificate" "$begin" "$leaf"
issue ssig_ec ssig_rootca leaf_ec "CML Test EC Signing Certificate" "$begin" "$leaf"
issue ssig_expired ssig_subca_cml leaf "CML Test Expired Signing Certificate" '731 days ago' '365 days ago'
issue localca_rootca localca_rootca root "CML Test Local Root CA" "$begin" "$root"
issue local localca_rootca leaf "CML Test Local Signing Certificate" "$begin" "$leaf"
issue rogue_rootca rogue_rootca root "CML Test Rogue Root CA" "$begin" "$root"
issue rogue rogue_rootca leaf "CML Test Rogue Signing Certificate" "$begin" "$leaf"

# chain NAME CERT...
chain() {
    local target=$new/$1.cert name
    for name in "$@"; do cat "$WORK/$name.pem"; done >"$target"
    chmod 0644 "$target"
}
chain ssig_rootca
chain ssig_subca_cml
chain ssig_cml ssig_subca_cml
chain ssig_subca ssig_rootca
chain ssig ssig_subca ssig_rootca
chain ssig_ec
chain ssig_expired ssig_subca_cml
chain localca_rootca
chain local
chain rogue_rootca
chain rogue rogue_rootca

printf '%s\n' "$type" >"$new/key-type"
chmod 0644 "$new/key-type"
mv -f -- "$new"/* "$OUT/"
