package configs

import (
	"errors"
	"strconv"
	"strings"
)

// ParseDSCP reads a differentiated-services code point: its name (AF41, EF, CS5, …, RFC 4594) or its number 0 to 63.
// The empty string is 0: packets are not marked.
func ParseDSCP(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	name := strings.ToUpper(s)
	switch name {
	case "DF", "BE":
		return 0, nil
	case "LE": // RFC 8622
		return 1, nil
	case "VA": // VOICE-ADMIT, RFC 5865
		return 44, nil
	case "EF": // RFC 3246
		return 46, nil
	}
	if class, ok := strings.CutPrefix(name, "CS"); ok && len(class) == 1 && class[0] >= '0' && class[0] <= '7' {
		return int(class[0]-'0') * 8, nil
	}
	// AFxy is class x (1–4) with drop precedence y (1–3): 8x + 2y (RFC 2597).
	if af, ok := strings.CutPrefix(name, "AF"); ok && len(af) == 2 && af[0] >= '1' && af[0] <= '4' && af[1] >= '1' && af[1] <= '3' {
		return int(af[0]-'0')*8 + int(af[1]-'0')*2, nil
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n < 64 && strconv.FormatUint(n, 10) == s {
		return int(n), nil
	}
	return 0, errors.New("it is no DSCP name")
}

// ParseBandwidth reads "600kbit", "4mbit", "1gbit" or "64000bit" as bits per second (powers of ten). The empty string is 0: no bound.
func ParseBandwidth(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	units := []struct {
		name string
		bits int64
	}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}}
	for _, unit := range units {
		digits, ok := strings.CutSuffix(strings.ToLower(s), unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n <= 0 || n > 1e12/unit.bits {
			return 0, errors.New("it has no whole number that makes sense before " + unit.name)
		}
		return n * unit.bits, nil
	}
	return 0, errors.New("it has no unit")
}

// ParsePorts reads a range of ports, "49152-65535", or a single port.
func ParsePorts(s string) (low, high uint16, err error) {
	from, to, ranged := strings.Cut(s, "-")
	if low, err = parsePort(from); err != nil {
		return 0, 0, err
	}
	if !ranged {
		return low, low, nil
	}
	if high, err = parsePort(to); err != nil {
		return 0, 0, err
	}
	if high < low {
		return 0, 0, errors.New("it ends before it begins")
	}
	return low, high, nil
}
