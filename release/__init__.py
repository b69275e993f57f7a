"""What makes a release: notes from the changelog, checks of what is built, licences of what is used."""
