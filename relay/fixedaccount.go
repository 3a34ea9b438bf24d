package relay

import (
	"fmt"
	"os"
	"strings"

	"hafen/configs"
)

// fixedAccount is an account that does not change: a secret that users are minted with, or a user. nil: none.
type fixedAccount struct {
	mint               *authority // a shared secret
	username, password string
}

// newFixedAccount reads the files that a service's turn_credentials name.
func newFixedAccount(c configs.TURNCredentials) (*fixedAccount, error) {
	switch {
	case c.SecretFile != "":
		secret, err := readLine(c.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("turn_credentials.secret_file: %w", err)
		}
		return &fixedAccount{mint: &authority{secret: []byte(secret)}}, nil
	case c.Username != "" && c.PasswordFile != "":
		password, err := readLine(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("turn_credentials.password_file: %w", err)
		}
		return &fixedAccount{username: c.Username, password: password}, nil
	}
	return nil, nil
}

// readLine is the first line of a file, without what editors put around it.
func readLine(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", fmt.Errorf("%s: its first line is empty", file)
	}
	return line, nil
}
