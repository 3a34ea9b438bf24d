package page

import (
	"strconv"
	"strings"
)

// Number writes a number with so many digits behind the decimal sign of the language.
func Number(lang string, v float64, digits int) string {
	s := strconv.FormatFloat(v, 'f', digits, 64)
	switch lang {
	case "de", "es", "fr", "it", "pl", "pt", "tr", "uk", "vi":
		s = strings.Replace(s, ".", ",", 1)
	}
	return s
}

// Rate writes a bit rate with the unit that suits it.
func Rate(lang string, bitsPerSecond float64) string {
	switch {
	case bitsPerSecond >= 1e9:
		return Number(lang, bitsPerSecond/1e9, 1) + " Gbit/s"
	case bitsPerSecond >= 1e6:
		return Number(lang, bitsPerSecond/1e6, 1) + " Mbit/s"
	}
	return Number(lang, bitsPerSecond/1e3, 0) + " kbit/s"
}

// Bytes writes an amount of data with the unit that suits it.
func Bytes(lang string, n uint64) string {
	switch v := float64(n); {
	case v >= 1e9:
		return Number(lang, v/1e9, 1) + " GB"
	case v >= 1e6:
		return Number(lang, v/1e6, 1) + " MB"
	default:
		return Number(lang, v/1e3, 0) + " kB"
	}
}
