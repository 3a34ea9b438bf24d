package configs

import (
	"errors"
	"strings"

	"golang.org/x/net/idna"
)

// checkHostname says what is wrong with a host name, as what follows "it". Names are what DNS and TLS can carry:
// ASCII labels of letters, digits, hyphens and underscores.
func checkHostname(name string) error {
	switch {
	case name == "":
		return errors.New("is empty")
	case len(name) > 253:
		return errors.New("is longer than 253 characters")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return errors.New("ends in a number like an address, but is none")
	}
	return nil
}

func checkLabel(label string) error {
	if label == "" {
		return errors.New("has an empty part between dots")
	}
	if len(label) > 63 {
		return errors.New("has a part longer than 63 characters")
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return errors.New("has a part that begins or ends with a hyphen")
	}
	for i := range len(label) {
		b := label[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		if !letter && (b < '0' || b > '9') && b != '-' && b != '_' {
			return errors.New("has a character that host names cannot have")
		}
	}
	return nil
}

// asciiForm is the punycode form of a name with letters beyond ASCII; "" where there is none to offer.
func asciiForm(name string) string {
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil || ascii == name || checkHostname(ascii) != nil {
		return ""
	}
	return ascii
}
