"""Who answers the questions. Torch only in ``local`` and ``tree``, which are imported when used."""
