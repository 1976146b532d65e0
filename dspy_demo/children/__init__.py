"""Child processes of the app: started, watched, and gone when the app is gone."""
