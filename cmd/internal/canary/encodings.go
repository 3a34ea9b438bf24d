package canary

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
)

// encodings are the forms in which a piece of a secret may come to light, each with its name.
func encodings(piece string) map[string]string {
	forms := make(map[string]string)
	add := func(name, form string) {
		if _, known := forms[form]; !known && len(form) >= shortest {
			forms[form] = name
		}
	}
	add("plain", piece)
	for shift := range 3 {
		add("base64", base64Within(base64.RawStdEncoding, piece, shift))
		add("base64 for URLs", base64Within(base64.RawURLEncoding, piece, shift))
	}
	add("hex", hex.EncodeToString([]byte(piece)))
	for name, separator := range map[string]string{"hex": "", "hex, apart": " ", "hex with colons": ":", "percent": "%", "escaped": `\x`, "JSON's characters": `\u00`} {
		lower := each(piece, "%02x", separator)
		add(name, lower)
		add(name, strings.NewReplacer("X", "x", "U", "u").Replace(strings.ToUpper(lower)))
	}
	add("percent", url.QueryEscape(piece))
	add("percent", url.PathEscape(piece))
	add("quoted", within(strconv.Quote(piece)))
	add("quoted", within(strconv.QuoteToASCII(piece)))
	if text, err := json.Marshal(piece); err == nil {
		add("JSON", within(string(text)))
	}
	add("HTML", html.EscapeString(piece))
	add("Go's bytes", each(piece, "0x%x", ", "))
	for i := range len(piece) - 7 { // an argument in a crash's stack
		add("a word of a stack", fmt.Sprintf("%#x", window(piece[i:])))
	}
	add("numbers", each(piece, "%d", " "))
	add("numbers", each(piece, "%d", ", "))
	add("numbers", each(piece, "%d", ","))
	return forms
}

// base64Within is what stays the same of a piece in base64, shift bytes after a multiple of three, whatever stands beside it.
func base64Within(enc *base64.Encoding, piece string, shift int) string {
	const bits, digit = 8, 6
	all := enc.EncodeToString([]byte(strings.Repeat("x", shift) + piece))
	return all[(shift*bits+digit-1)/digit : (shift+len(piece))*bits/digit]
}

// each writes the bytes one by one.
func each(piece, format, separator string) string {
	var b strings.Builder
	for i := range len(piece) {
		if i > 0 || separator == `\x` || separator == "%" || separator == `\u00` {
			b.WriteString(separator)
		}
		fmt.Fprintf(&b, format, piece[i])
	}
	return b.String()
}

// within is a quoted text without its quotes.
func within(quoted string) string { return quoted[1 : len(quoted)-1] }
