#!/bin/sh
# Makes the golden files of this directory with the openssl program: tokens and wrapped keys as the existing
# system has them (crypto.md 1.1 and 1.5). They are checked in, so that a change of ours cannot change them
# as well; run this only to add another.
set -eu
cd "$(dirname "$0")"

# 96 bytes that appear nowhere else.
for i in $(seq 0 95); do printf '%b' "\\0$(printf %o $(((i * 91 + 17) % 256)))"; done >key.bin

openssl req -x509 -newkey rsa:4096 -nodes -subj /CN=golden -days 365 -keyout rsa.pem -out cert.pem 2>/dev/null
export_token() { # file, further options
    file=$1
    shift
    openssl pkcs12 -export -inkey rsa.pem -in cert.pem -name 'gyroidos test user' \
        -passout pass:trustme -out "$file" "$@"
}
export_token modern.p12
export_token legacy.p12 -legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-3DES -macalg sha1
export_token one-round.p12 -legacy -certpbe PBE-SHA1-RC2-40 -keypbe PBE-SHA1-3DES -macalg sha1 -noiter -nomaciter

# The envelope: two native lengths, the IV, the AES key under RSA, the key under AES.
aes=$(openssl rand -hex 32)
iv=$(openssl rand -hex 16)
hex() { printf '%s' "$1" | sed 's/../\\x&/g' | xargs -0 printf '%b'; }
hex "$aes" | openssl pkeyutl -encrypt -inkey rsa.pem -pkeyopt rsa_padding_mode:pkcs1 -out ek.bin
openssl enc -aes-256-cbc -K "$aes" -iv "$iv" -in key.bin -out ct.bin
{
    hex 0002000070000000 # 512 and 112, little endian
    hex "$iv"
    cat ek.bin ct.bin
} >envelope.key

# The smart card's: RFC 3394 under 32 bytes of 0x11.
kek=$(printf '11%.0s' $(seq 32))
openssl enc -id-aes256-wrap -K "$kek" -iv A6A6A6A6A6A6A6A6 -in key.bin -out card.key

rm -f rsa.pem cert.pem ek.bin ct.bin
wc -c ./*.p12 ./*.key
