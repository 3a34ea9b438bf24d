package configs

import (
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// scalarError says what is wrong with a value without showing it: it might be a secret in the wrong place.
type scalarError struct{ problem, write string }

// parseScalar checks that text is a value of type t and returns it as viper's decoder takes it: numbers and booleans as such,
// all else as text that the types themselves can read.
func parseScalar(text string, t reflect.Type) (any, *scalarError) {
	switch kindOf(t) {
	case boolKind:
		if text != "true" && text != "false" {
			return nil, &scalarError{"is neither true nor false", "write true or false"}
		}
		return text == "true", nil
	case intKind:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, &scalarError{"is no whole number", "write " + example(t)}
		}
		return n, nil
	case floatKind:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, &scalarError{"is no number", "write " + example(t)}
		}
		return f, nil
	case durationKind:
		if _, err := time.ParseDuration(text); err != nil {
			return nil, &scalarError{"is no duration", "write " + example(t)}
		}
		return text, nil
	case addrKind:
		return text, checkAddr(text)
	case prefixKind:
		return text, checkPrefix(text)
	default:
		return text, nil
	}
}

func checkAddr(text string) *scalarError {
	if text == "" {
		return nil
	}
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return &scalarError{"is no IP address", "write an address such as 203.0.113.7 or 2001:db8::7"}
	case addr.Zone() != "":
		return &scalarError{"has a zone", "write the address without " + "%" + "zone"}
	case addr.Is4In6():
		return &scalarError{"is an IPv4 address in IPv6 form", "write " + addr.Unmap().String()}
	}
	return nil
}

// checkPrefix refuses what is no network. Networks with host bits are left to Validate, which names the masked form.
func checkPrefix(text string) *scalarError {
	if _, err := netip.ParsePrefix(text); err == nil {
		return nil
	}
	if addr, err := netip.ParseAddr(strings.TrimSpace(text)); err == nil && addr.Zone() == "" {
		whole := netip.PrefixFrom(addr, addr.BitLen())
		return &scalarError{"is an address without the length of its network", "write " + whole.String() + ", or the network it is in"}
	}
	return &scalarError{"is no network", "write " + example(reflect.TypeFor[netip.Prefix]())}
}

// example is what a value of type t looks like.
func example(t reflect.Type) string {
	switch kindOf(t) {
	case boolKind:
		return "true or false"
	case intKind:
		return "a whole number such as 200"
	case floatKind:
		return "a number such as 200 or 3.6"
	case durationKind:
		return "a number with its unit, such as 250ms, 30s, 5m or 1h"
	case addrKind:
		return "an address such as 203.0.113.7 or 2001:db8::7"
	case prefixKind:
		return "a network such as 10.1.0.0/16 or 2001:db8:1::/48"
	default:
		return "one value"
	}
}
