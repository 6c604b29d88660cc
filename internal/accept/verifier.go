package accept

import (
	"cmp"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"

	"basin/internal/hba"

	"github.com/xdg-go/stringprep"
)

// DefaultIterations is how often a password is hashed unless it is said
// otherwise.
//
// Source: SCRAM_SHA_256_DEFAULT_ITERATIONS in src/include/common/scram-common.h, PostgreSQL 18.
const DefaultIterations = 4096

// saltSize is the bytes of salt in a new secret.
//
// Source: SCRAM_DEFAULT_SALT_LEN in src/include/common/scram-common.h, PostgreSQL 18.
const saltSize = 16

// NewVerifier returns what a server is to keep of a password, with a new salt.
// Zero iterations are DefaultIterations.
//
// Source: pg_be_scram_build_secret in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func NewVerifier(password string, iterations int) (hba.Verifier, error) {
	iterations = cmp.Or(iterations, DefaultIterations)
	switch {
	case password == "":
		return hba.Verifier{}, errors.New("the password is empty")
	case iterations < 1 || iterations > math.MaxInt32:
		return hba.Verifier{}, fmt.Errorf("a password cannot be hashed %d times", iterations)
	}
	v := hba.Verifier{Iterations: iterations, Salt: make([]byte, saltSize)}
	if _, err := rand.Read(v.Salt); err != nil {
		return hba.Verifier{}, err
	}
	salted, err := pbkdf2.Key(sha256.New, preparePassword(password), v.Salt, iterations, sha256.Size)
	if err != nil {
		return hba.Verifier{}, err
	}
	v.StoredKey = sha256.Sum256(sign(salted, "Client Key"))
	copy(v.ServerKey[:], sign(salted, "Server Key"))
	return v, nil
}

// preparePassword brings a password to the form that PostgreSQL hashes. One
// that has no such form, since it is not UTF-8 or has characters that are not
// allowed, is taken as it is.
//
// Source: pg_be_scram_build_secret in src/backend/libpq/auth-scram.c and
// pg_saslprep in src/common/saslprep.c, PostgreSQL 18.
func preparePassword(password string) string {
	profile := stringprep.SASLprep
	// U+200B is in both tables. PostgreSQL makes a space of it.
	profile.Mappings = []stringprep.Mapping{profile.Mappings[1], profile.Mappings[0]}
	prepared, err := profile.Prepare(password)
	if err != nil || prepared == "" {
		return password
	}
	return prepared
}

// mockVerifier makes a verifier up, for a user that there is not. It is always
// the same for one user, as a real one is, and its keys are of no password.
//
// Source: mock_scram_secret and scram_mock_salt in src/backend/libpq/auth-scram.c, PostgreSQL 18.
func mockVerifier(secret []byte, user string, iterations int) hba.Verifier {
	v := hba.Verifier{Iterations: iterations, Salt: sign(secret, "salt of "+user)[:saltSize]}
	copy(v.StoredKey[:], sign(secret, "stored key of "+user))
	copy(v.ServerKey[:], sign(secret, "server key of "+user))
	return v
}

// newExchange begins to ask for the password of the user. That of one who has
// none, or does not exist, is asked for just so, by a secret that is made up.
// One is made up for everyone, and one is read: there is one way through here,
// and how long it takes does not tell who is a user.
func (g *guest) newExchange(ctx context.Context) (*exchange, error) {
	iterations := 0
	if g.options.Iterations != nil {
		iterations = g.options.Iterations()
	}
	mock := mockVerifier(g.options.Secret, g.session.User, cmp.Or(iterations, DefaultIterations))
	text, known := mock.Text(), false
	if g.options.Verifier != nil {
		ctx, cancel := context.WithTimeout(ctx, g.options.timeout())
		defer cancel()
		verifier, ok, err := g.options.Verifier(ctx, g.session.User)
		if err != nil {
			return nil, refuse(codeCannotConnectNow, "could not look up the password of user \"%s\"", g.session.User).because("%w", err)
		}
		if ok {
			text, known = verifier, true
		}
	}
	e := &exchange{known: known, sum: g.sum, reason: errNoProof}
	if !known {
		e.reason = errors.New("there is no such user, or it has no password")
	}
	var err error
	if e.verifier, err = hba.ParseVerifier(text); err != nil {
		e.verifier, e.known, e.reason = mock, false, errors.New("the user does not have a valid SCRAM secret")
	}
	e.nonce, err = newNonce()
	return e, err
}
